# Audits: the leakage gate, and the quality, tone and memorisation of what was generated.
#
# In:  index/<split>.parquet and the archives it points into
# Out: audit/<split>/{leakage,quality,tone,memorisation}.json; a leak fails the build


rule leakage:
    input:
        index=rules.index.output.table,
        photos=lambda w: all_photo_archives(PLAN.split_cohorts(w.split)),
    output:
        report=f"{R}/audit/{{split}}/leakage.json",
    log:
        f"{R}/logs/audit/{{split}}/leakage.log",
    benchmark:
        f"{R}/benchmarks/audit/{{split}}/leakage.tsv"
    conda:
        "../envs/classify.yaml"
    threads: 1
    resources:
        mem_mb=gb(8),
        runtime=minutes(60),
    params:
        spec=lambda w: PLAN.spec("audit", kind="leakage", split=w.split),
    message:
        "leakage gate of split {wildcards.split}"
    shell:
        """
        cgddi audit leakage \
            --spec {params.spec:q} \
            --index {input.index:q} \
            --photos {input.photos:q} \
            --output {output.report:q} \
            --threads {threads} 2>{log:q}
        """


rule audit:
    input:
        index=rules.index.output.table,
        photos=lambda w: all_photo_archives(PLAN.split_cohorts(w.split)),
    output:
        report=f"{R}/audit/{{split}}/{{kind}}.json",
    log:
        text=f"{R}/logs/audit/{{split}}/{{kind}}.log",
        metrics=f"{R}/logs/audit/{{split}}/{{kind}}.metrics.jsonl",
    benchmark:
        f"{R}/benchmarks/audit/{{split}}/{{kind}}.tsv"
    conda:
        "../envs/classify.yaml"
    threads: 4
    resources:
        gpu=lambda w: 1 if w.kind == "quality" else 0,
        mem_mb=gb(16),
        runtime=minutes(120),
    params:
        spec=lambda w: PLAN.spec("audit", kind=w.kind, split=w.split),
    message:
        "{wildcards.kind} audit of split {wildcards.split}"
    shell:
        """
        cgddi --gpus {resources.gpu} audit {wildcards.kind} \
            --spec {params.spec:q} \
            --index {input.index:q} \
            --photos {input.photos:q} \
            --output {output.report:q} \
            --metrics {log.metrics:q} \
            --threads {threads} 2>{log.text:q}
        """
