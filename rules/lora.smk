# LoRA: a concept's adapter, trained with prior preservation on the first cohort's canvases.
#
# In:  the concepts' training photos, their tokens, canvases/<first cohort>.tar, the split that keeps test canvases out
# Out: lora/<scope>/<concept>/pytorch_lora_weights.safetensors, samples.png, record.json

PRIORS = PLAN.canvas_cohorts[0] if PLAN.canvas_cohorts else "none"


rule lora:
    input:
        photos=lambda w: photo_archives(PLAN.training[w.scope, w.concept]),
        canvases=f"{R}/canvases/{PRIORS}.jsonl",
        split=lambda w: split_of(w.scope, PRIORS),
        embedding=rules.embedding.output.weights,
    output:
        weights=f"{R}/lora/{{scope}}/{{concept}}/pytorch_lora_weights.safetensors",
        samples=f"{R}/lora/{{scope}}/{{concept}}/samples.png",
        record=f"{R}/lora/{{scope}}/{{concept}}/record.json",
    log:
        text=f"{R}/logs/lora/{{scope}}/{{concept}}.log",
        metrics=f"{R}/logs/lora/{{scope}}/{{concept}}.metrics.jsonl",
    benchmark:
        f"{R}/benchmarks/lora/{{scope}}/{{concept}}.tsv"
    priority: 20
    conda:
        "../envs/diffusion.yaml"
    threads: 4
    resources:
        gpu=1,
        mem_mb=gb(24),
        runtime=minutes(60),
    params:
        spec=lambda w: PLAN.generator_spec("lora", w.scope, w.concept),
        folder=subpath(output.weights, parent=True),
        split=lambda w, input: option("--split", input.split),
        state=f"{R}/.state/lora/{{scope}}/{{concept}}",
    message:
        "adapter of {wildcards.concept} ({wildcards.scope})"
    shell:
        """
        cgddi --gpus {resources.gpu} lora \
            --spec {params.spec:q} \
            --photos {input.photos:q} \
            --canvases {input.canvases:q} \
            {params.split} \
            --embedding {input.embedding:q} \
            --output-dir {params.folder:q} \
            --state {params.state:q} \
            --cache "$CGDDI_CACHE" \
            --metrics {log.metrics:q} \
            --threads {threads} 2>{log.text:q}
        """
