# Canvases: the kept healthy images of a cohort, pooled into one archive.
#
# In:  healthy/<cohort>/*.tar, the review file's verdicts on this cohort
# Out: canvases/<cohort>.tar: png, mask.png


rule canvases:
    input:
        healthy=lambda w: all_healthy_archives([w.cohort]),
    output:
        multiext(f"{R}/canvases/{{cohort}}", tar=".tar", manifest=".jsonl", record=".json"),
    log:
        f"{R}/logs/canvases/{{cohort}}.log",
    benchmark:
        f"{R}/benchmarks/canvases/{{cohort}}.tsv"
    priority: 45
    conda:
        "../envs/images.yaml"
    threads: 1
    resources:
        mem_mb=gb(2),
        runtime=minutes(20),
    params:
        spec=lambda w: PLAN.canvases_spec(w.cohort),
    message:
        "canvases of {wildcards.cohort}"
    shell:
        """
        cgddi canvases \
            --spec {params.spec:q} \
            --healthy {input.healthy:q} \
            --output {output.tar:q} \
            --threads {threads} 2>{log:q}
        """
