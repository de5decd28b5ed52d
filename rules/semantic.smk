# Semantic: samples of a concept on a cohort's canvases, in three tones.
#
# In:  canvases/<canvas cohort>.tar, the concept's token and adapter, the split that keeps test canvases out
# Out: semantic/<scope>/<canvas cohort>/<concept>.tar: png


rule semantic:
    input:
        canvases=f"{R}/canvases/{{canvas_cohort}}.jsonl",
        split=lambda w: split_of(w.scope, w.canvas_cohort),
        embedding=rules.embedding.output.weights,
        lora=rules.lora.output.weights,
    output:
        multiext(f"{R}/semantic/{{scope}}/{{canvas_cohort}}/{{concept}}", tar=".tar", manifest=".jsonl", record=".json"),
    log:
        text=f"{R}/logs/semantic/{{scope}}/{{canvas_cohort}}/{{concept}}.log",
        metrics=f"{R}/logs/semantic/{{scope}}/{{canvas_cohort}}/{{concept}}.metrics.jsonl",
    benchmark:
        f"{R}/benchmarks/semantic/{{scope}}/{{canvas_cohort}}/{{concept}}.tsv"
    priority: 10
    conda:
        "../envs/diffusion.yaml"
    threads: 4
    resources:
        gpu=1,
        mem_mb=gb(24),
        runtime=minutes(240),
    params:
        spec=lambda w: PLAN.semantic_spec(w.scope, w.canvas_cohort, w.concept),
        split=lambda w, input: option("--split", input.split),
        state=f"{R}/.state/semantic/{{scope}}/{{canvas_cohort}}/{{concept}}",
    message:
        "samples of {wildcards.concept} on {wildcards.canvas_cohort} ({wildcards.scope})"
    shell:
        """
        cgddi --gpus {resources.gpu} semantic \
            --spec {params.spec:q} \
            --canvases {input.canvases:q} \
            {params.split} \
            --embedding {input.embedding:q} \
            --lora {input.lora:q} \
            --output {output.tar:q} \
            --state {params.state:q} \
            --cache "$CGDDI_CACHE" \
            --metrics {log.metrics:q} \
            --threads {threads} 2>{log.text:q}
        """
