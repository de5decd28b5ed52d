# Embedding: a concept's token, learned by textual inversion.
#
# In:  the masks archives that hold the concept's training photos in this scope
# Out: embedding/<scope>/<concept>/learned_embeds.safetensors, record.json


rule embedding:
    input:
        photos=lambda w: photo_archives(PLAN.generator_photos("embedding", w.scope, w.concept)),
    output:
        weights=f"{R}/embedding/{{scope}}/{{concept}}/learned_embeds.safetensors",
        record=f"{R}/embedding/{{scope}}/{{concept}}/record.json",
    log:
        text=f"{R}/logs/embedding/{{scope}}/{{concept}}.log",
        metrics=f"{R}/logs/embedding/{{scope}}/{{concept}}.metrics.jsonl",
    benchmark:
        f"{R}/benchmarks/embedding/{{scope}}/{{concept}}.tsv"
    priority: 30
    conda:
        "../envs/diffusion.yaml"
    threads: 4
    resources:
        gpu=1,
        mem_mb=gb(24),
        runtime=minutes(60),
    params:
        spec=lambda w: PLAN.generator_spec("embedding", w.scope, w.concept),
        folder=subpath(output.weights, parent=True),
        state=f"{R}/.state/embedding/{{scope}}/{{concept}}",
    message:
        "token of {wildcards.concept} ({wildcards.scope})"
    shell:
        """
        cgddi --gpus {resources.gpu} embedding \
            --spec {params.spec:q} \
            --photos {input.photos:q} \
            --output-dir {params.folder:q} \
            --state {params.state:q} \
            --cache "$CGDDI_CACHE" \
            --metrics {log.metrics:q} \
            --threads {threads} 2>{log.text:q}
        """
