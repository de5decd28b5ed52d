# Healthy: lesions and markers of masked photos inpainted with healthy skin, and triaged.
#
# In:  masks/<cohort>/<batch>.tar
# Out: healthy/<cohort>/<batch>.tar: png, before.png, region.png, mask.png
#      review/index.html: the page on which a person keeps or discards the results


rule healthy:
    message:
        "healthy skin for {wildcards.cohort}, batch {wildcards.batch}"
    input:
        photos=f"{R}/masks/{{cohort}}/{{batch}}.jsonl",
    output:
        multiext(f"{R}/healthy/{{cohort}}/{{batch}}", tar=".tar", manifest=".jsonl", record=".json"),
    params:
        spec=lambda w: PLAN.healthy_spec(w.cohort, w.batch),
    log:
        text=f"{R}/logs/healthy/{{cohort}}/{{batch}}.log",
        metrics=f"{R}/logs/healthy/{{cohort}}/{{batch}}.metrics.jsonl",
    benchmark:
        f"{R}/benchmarks/healthy/{{cohort}}/{{batch}}.tsv"
    conda:
        "../envs/diffusion.yaml"
    threads: 4
    resources:
        gpu=1,
        mem_mb=gb(24),
        runtime=minutes(60),
    shell:
        """
        {CGDDI} healthy \
            --spec {params.spec:q} \
            --photos {input.photos:q} \
            --output {output.tar:q} \
            --metrics {log.metrics:q} \
            --threads {threads} 2> {log.text:q}
        """


rule review:
    message:
        "review page of the healthy images"
    input:
        healthy=all_healthy_archives(PLAN.canvas_cohorts),
    output:
        page=f"{R}/review/index.html",
    params:
        spec=PLAN.spec("healthy", settings=PLAN.config.canvases),
    log:
        f"{R}/logs/review.log",
    conda:
        "../envs/images.yaml"
    threads: 1
    resources:
        mem_mb=gb(2),
        runtime=minutes(20),
    shell:
        """
        {CGDDI} review \
            --healthy {input.healthy:q} \
            --output {output.page:q} 2> {log:q}
        """
