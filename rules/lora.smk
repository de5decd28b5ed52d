# LoRA: a concept's adapter, trained with prior preservation on the first cohort's canvases.
#
# In:  the concepts' training photos, their tokens, canvases/<first cohort>.tar, the split that keeps test canvases out
# Out: lora/<scope>/<concept>/pytorch_lora_weights.safetensors, samples.png, record.json


rule lora:
    input:
        unpack(inputs("lora")),
    output:
        **PATHS.outputs("lora"),
    log:
        text=PATHS.log("lora"),
        metrics=PATHS.metrics("lora"),
    benchmark:
        PATHS.benchmark("lora")
    priority: urgency("lora")
    conda:
        "../envs/diffusion.yaml"
    threads: 4
    resources:
        gpu=PLAN.config.lora.num_processes,
        mem_mb=gb(24),
        runtime=minutes(60),
    params:
        cgddi=command,
        folder=subpath(output.weights, parent=True),
        state=state("lora"),
        cache=cache,
    message:
        "adapter of {wildcards.concept} ({wildcards.scope})"
    shell:
        """
        {params.cgddi} --gpus {resources.gpu} lora \
            --spec {input.spec:q} \
            --output-dir {params.folder:q} \
            --state {params.state:q} \
            --cache {params.cache:q} \
            --metrics {log.metrics:q} \
            --threads {threads} 2>{log.text:q}
        """
