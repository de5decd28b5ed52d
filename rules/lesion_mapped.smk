# Lesion mapping: one donor's lesion transplanted onto every canvas of a cohort.
#
# In:  masks/<donor's cohort>/<donor's batch>.tar, canvases/<canvas cohort>.tar
# Out: lesion_mapped/<canvas cohort>/<donor>.tar: png, mask.png


rule lesion_mapped:
    input:
        unpack(inputs("lesion_mapped")),
    output:
        **PATHS.outputs("lesion_mapped"),
    log:
        PATHS.log("lesion_mapped"),
    benchmark:
        PATHS.benchmark("lesion_mapped")
    priority: urgency("lesion_mapped")
    conda:
        "../envs/images.yaml"
    threads: 1
    resources:
        mem_mb=gb(2),
        runtime=minutes(20),
    params:
        cgddi=command,
    message:
        "lesion of {wildcards.donor} onto the canvases of {wildcards.canvas_cohort}"
    shell:
        """
        {params.cgddi} lesion_mapped \
            --spec {input.spec:q} \
            --output {output.tar:q} \
            --threads {threads} 2>{log:q}
        """
