# Canvases: the kept healthy images of a cohort, pooled into one archive.
#
# In:  healthy/<cohort>/*.tar, the review file's verdicts on this cohort
# Out: canvases/<cohort>.tar: png, mask.png


rule canvases:
    input:
        unpack(inputs("canvases")),
    output:
        **PATHS.outputs("canvases"),
    log:
        PATHS.log("canvases"),
    benchmark:
        PATHS.benchmark("canvases")
    priority: urgency("canvases")
    conda:
        "../envs/images.yaml"
    threads: 1
    resources:
        mem_mb=gb(2),
        runtime=minutes(20),
    params:
        cgddi=command,
    message:
        "canvases of {wildcards.cohort}"
    shell:
        """
        {params.cgddi} canvases \
            --spec {input.spec:q} \
            --output {output.tar:q} \
            --threads {threads} 2>{log:q}
        """
