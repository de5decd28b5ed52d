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
        gpu=PLAN.config.embedding.num_processes,
        mem_mb=gb(24),
        runtime=minutes(60),
    params:
        cgddi=command,
        folder=subpath(output.weights, parent=True),
        state=state("embedding"),
        cache=cache,
    message:
        "token of {wildcards.concept} ({wildcards.scope})"
    shell:
        """
        {params.cgddi} --gpus {resources.gpu} embedding \
            --spec {input.spec:q} \
            --output-dir {params.folder:q} \
            --state {params.state:q} \
            --cache {params.cache:q} \
            --metrics {log.metrics:q} \
            --threads {threads} 2>{log.text:q}
        """
