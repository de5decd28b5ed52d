# Masks: photos and their five-class masks, brought to working size. One rule per source (config key masks.source, by cohort).
#
# In:  photos of one batch (rows of one cohort and concept), with: the sheet's mask files (human); features and the trained
#      segmenter (fedd); SAM 3 (sam3)
# Out: masks/<cohort>/<batch>.tar: png, mask.png where masked
#
# Reading published masks takes seconds a batch, less than a cluster job takes to start: that rule is local.


rule masks:
    input:
        unpack(inputs("masks")),
    output:
        **PATHS.outputs("masks"),
    log:
        PATHS.log("masks"),
    benchmark:
        PATHS.benchmark("masks")
    wildcard_constraints:
        cohort=cohorts_by("human"),
    priority: urgency("masks")
    localrule: True
    conda:
        "../envs/images.yaml"
    threads: 1
    resources:
        mem_mb=gb(2),
        runtime=minutes(20),
    params:
        cgddi=command,
    message:
        "masks of {wildcards.cohort}, batch {wildcards.batch}"
    shell:
        """
        {params.cgddi} masks \
            --spec {input.spec:q} \
            --output {output.tar:q} \
            --threads {threads} 2>{log:q}
        """


rule fedd_masks:
    input:
        unpack(inputs("masks")),
    output:
        **PATHS.outputs("masks"),
    log:
        text=PATHS.log("masks"),
        metrics=PATHS.metrics("masks"),
    benchmark:
        PATHS.benchmark("masks")
    wildcard_constraints:
        cohort=cohorts_by("fedd"),
    priority: urgency("fedd_masks")
    conda:
        "../envs/diffusion.yaml"
    threads: 4
    resources:
        mem_mb=gb(8),
        runtime=minutes(60),
    params:
        cgddi=command,
    message:
        "masks of {wildcards.cohort}, batch {wildcards.batch} (FEDD)"
    shell:
        """
        {params.cgddi} masks \
            --spec {input.spec:q} \
            --output {output.tar:q} \
            --metrics {log.metrics:q} \
            --threads {threads} 2>{log.text:q}
        """


rule sam3_masks:
    input:
        unpack(inputs("masks")),
    output:
        **PATHS.outputs("masks"),
    log:
        text=PATHS.log("masks"),
        metrics=PATHS.metrics("masks"),
    benchmark:
        PATHS.benchmark("masks")
    wildcard_constraints:
        cohort=cohorts_by("sam3"),
    priority: urgency("sam3_masks")
    conda:
        "../envs/diffusion.yaml"
    threads: 4
    resources:
        gpu=1,
        mem_mb=gb(24),
        runtime=minutes(60),
    params:
        cgddi=command,
    message:
        "masks of {wildcards.cohort}, batch {wildcards.batch} (SAM 3)"
    shell:
        """
        {params.cgddi} --gpus {resources.gpu} masks \
            --spec {input.spec:q} \
            --output {output.tar:q} \
            --metrics {log.metrics:q} \
            --threads {threads} 2>{log.text:q}
        """


rule skin:
    """Where there is skin on the kept healthy images, by SAM 3: for cohorts with masks.on_healthy."""
    input:
        unpack(inputs("skin")),
    output:
        **PATHS.outputs("skin"),
    log:
        text=PATHS.log("skin"),
        metrics=PATHS.metrics("skin"),
    benchmark:
        PATHS.benchmark("skin")
    wildcard_constraints:
        cohort=cohorts_by("sam3"),
    priority: urgency("skin")
    conda:
        "../envs/diffusion.yaml"
    threads: 4
    resources:
        gpu=1,
        mem_mb=gb(24),
        runtime=minutes(60),
    params:
        cgddi=command,
    message:
        "skin on the healthy images of {wildcards.cohort} (SAM 3)"
    shell:
        """
        {params.cgddi} --gpus {resources.gpu} masks \
            --spec {input.spec:q} \
            --output {output.tar:q} \
            --metrics {log.metrics:q} \
            --threads {threads} 2>{log.text:q}
        """
