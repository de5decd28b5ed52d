# Healthy: lesions and markers of masked photos inpainted with healthy skin, and scored for the triage.
#
# In:  masks/<cohort>/<batch>.tar; for the review page also canvases/<cohort>.json, the verdicts
# Out: healthy/<cohort>/<batch>.tar: png, before.png, region.png, mask.png
#      review/index.html, review/record.json: the page on which a person keeps or discards the results


rule healthy:
    input:
        unpack(inputs("healthy")),
    output:
        **PATHS.outputs("healthy"),
    log:
        text=PATHS.log("healthy"),
        metrics=PATHS.metrics("healthy"),
    benchmark:
        PATHS.benchmark("healthy")
    priority: urgency("healthy")
    conda:
        "../envs/diffusion.yaml"
    threads: 4
    resources:
        gpu=1,
        mem_mb=gb(24),
        runtime=minutes(60),
    params:
        cgddi=command,
        cache=cache,
    message:
        "healthy skin for {wildcards.cohort}, batch {wildcards.batch}"
    shell:
        """
        {params.cgddi} --gpus {resources.gpu} healthy \
            --spec {input.spec:q} \
            --output {output.tar:q} \
            --cache {params.cache:q} \
            --metrics {log.metrics:q} \
            --threads {threads} 2>{log.text:q}
        """


rule review:
    input:
        unpack(inputs("review")),
    output:
        **PATHS.outputs("review"),
    log:
        PATHS.log("review"),
    priority: urgency("review")
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
        "review page of the healthy images"
    shell:
        """
        {params.cgddi} review \
            --spec {input.spec:q} \
            --output {output.page:q} \
            --threads {threads} 2>{log:q}
        """
