# Splits and the index: which photo is train, validation or test, and every image a split may learn from, with its lineage.
#
# In:  the image sheet; the manifests of all photos and generated images
# Out: splits/<split>/<cohort>.csv; splits/<split>/canvases/<cohort>.csv, the photos of these that may become canvases: generators
#      read that, so that a photo without a mask concerns none of them; index/<split>.parquet, index/<split>.json


rule split:
    input:
        unpack(inputs("split")),
    output:
        **PATHS.outputs("split"),
    log:
        PATHS.log("split"),
    priority: urgency("split")
    localrule: True
    conda:
        "../envs/images.yaml"
    threads: 1
    resources:
        mem_mb=gb(1),
        runtime=minutes(10),
    params:
        cgddi=command,
    message:
        "split {wildcards.split} of {wildcards.cohort}"
    shell:
        """
        {params.cgddi} split \
            --spec {input.spec:q} \
            --output {output.table:q} \
            --threads {threads} 2>{log:q}
        """


use rule split as canvas_split with:
    input:
        unpack(inputs("canvas_split")),
    output:
        **PATHS.outputs("canvas_split"),
    log:
        PATHS.log("canvas_split"),
    priority: urgency("canvas_split")
    message:
        "split {wildcards.split} of the canvases of {wildcards.cohort}"


rule index:
    input:
        unpack(inputs("index")),
    output:
        **PATHS.outputs("index"),
    log:
        PATHS.log("index"),
    benchmark:
        PATHS.benchmark("index")
    priority: urgency("index")
    conda:
        "../envs/images.yaml"
    threads: 1
    resources:
        mem_mb=gb(8),
        runtime=minutes(60),
    params:
        cgddi=command,
    message:
        "index of split {wildcards.split}"
    shell:
        """
        {params.cgddi} index \
            --spec {input.spec:q} \
            --output {output.table:q} \
            --threads {threads} 2>{log:q}
        """
