# Embedding: a concept's token, learned by textual inversion.
#
# In:  the masks archives that hold the concept's training photos in this scope
# Out: embedding/<scope>/<concept>/learned_embeds.safetensors, record.json


rule embedding:
    input:
        unpack(inputs("embedding")),
    output:
        **PATHS.outputs("embedding"),
    log:
        text=PATHS.log("embedding"),
        metrics=PATHS.metrics("embedding"),
    benchmark:
        PATHS.benchmark("embedding")
    priority: urgency("embedding")
    conda:
        "../envs/diffusion.yaml"
    threads: 4
    resources:
        gpu=1,
        mem_mb=gb(24),
        runtime=minutes(60),
    params:
        folder=subpath(output.weights, parent=True),
    message:
        "token of {wildcards.concept} ({wildcards.scope})"
    shell:
        """
        {CGDDI} --gpus {resources.gpu} embedding \
            --spec {input.spec:q} \
            --output-dir {params.folder:q} \
            --state {R}/.state/embedding/{wildcards.scope}/{wildcards.concept} \
            --cache {CACHE} \
            --metrics {log.metrics:q} \
            --threads {threads} 2>{log.text:q}
        """
