# Lesion mapping: the lesion of each donor of a batch transplanted onto every canvas of a cohort.
#
# In:  masks/<donors' cohort>/<batch>.tar, canvases/<canvas cohort>.tar
# Out: lesion_mapped/<canvas cohort>/<donors' cohort>/<batch>.tar: <donor>/<canvas>.png and .mask.png


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
        runtime=minutes(60),
    params:
        cgddi=command,
    message:
        "lesions of {wildcards.cohort}, batch {wildcards.batch}, onto the canvases of {wildcards.canvas_cohort}"
    shell:
        """
        {params.cgddi} lesion_mapped \
            --spec {input.spec:q} \
            --output {output.tar:q} \
            --threads {threads} 2>{log:q}
        """
