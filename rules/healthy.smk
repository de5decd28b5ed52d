# Healthy: lesions and markers of masked photos inpainted with healthy skin, and scored for the triage.
#
# In:  masks/<cohort>/<batch>.tar; for the review page also canvases/<cohort>.json, the verdicts
# Out: healthy/<cohort>/<batch>.tar: png, before.png, region.png, mask.png
#      review/index.html: the page on which a person keeps or discards the results


rule healthy:
    input:
        photos=f"{R}/masks/{{cohort}}/{{batch}}.jsonl",
    output:
        multiext(f"{R}/healthy/{{cohort}}/{{batch}}", tar=".tar", manifest=".jsonl", record=".json"),
    log:
        text=f"{R}/logs/healthy/{{cohort}}/{{batch}}.log",
        metrics=f"{R}/logs/healthy/{{cohort}}/{{batch}}.metrics.jsonl",
    benchmark:
        f"{R}/benchmarks/healthy/{{cohort}}/{{batch}}.tsv"
    priority: 40
    conda:
        "../envs/diffusion.yaml"
    threads: 4
    resources:
        gpu=1,
        mem_mb=gb(24),
        runtime=minutes(60),
    params:
        spec=lambda w: PLAN.healthy_spec(w.cohort, w.batch),
    message:
        "healthy skin for {wildcards.cohort}, batch {wildcards.batch}"
    shell:
        """
        cgddi --gpus {resources.gpu} healthy \
            --spec {params.spec:q} \
            --photos {input.photos:q} \
            --output {output.tar:q} \
            --metrics {log.metrics:q} \
            --threads {threads} 2>{log.text:q}
        """


rule review:
    input:
        healthy=all_healthy_archives(PLAN.canvas_cohorts),
        photos=[
            archive("masks", cohort, batch)
            for cohort in PLAN.canvas_cohorts
            for batch in PLAN.healthy_batches.get(cohort, ())
        ],
        canvases=[f"{R}/canvases/{cohort}.json" for cohort in PLAN.canvas_cohorts],
    output:
        page=f"{R}/review/index.html",
    log:
        f"{R}/logs/review.log",
    conda:
        "../envs/images.yaml"
    threads: 1
    resources:
        mem_mb=gb(2),
        runtime=minutes(20),
    params:
        revision=revision("canvases"),
    message:
        "review page of the healthy images"
    shell:
        """
        cgddi review \
            --healthy {input.healthy:q} \
            --photos {input.photos:q} \
            --canvases {input.canvases:q} \
            --output {output.page:q} 2>{log:q}
        """
