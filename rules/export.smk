# Export: what leaves the lab, as a Hugging Face data set and adapters in diffusers' layout. Not part of `all`.
#
# In:  every index, adapter and token
# Out: export/README.md and the folders beside it


rule export:
    input:
        index=expand(f"{R}/index/{{split}}.parquet", split=PLAN.config.splits),
        lora=[f"{R}/lora/{scope}/{concept}/pytorch_lora_weights.safetensors" for scope, concept in PLAN.adapters],
        embedding=[f"{R}/embedding/{scope}/{concept}/learned_embeds.safetensors" for scope, concept in PLAN.adapters],
    output:
        card=f"{R}/export/README.md",
        record=f"{R}/export/record.json",
    log:
        f"{R}/logs/export.log",
    benchmark:
        f"{R}/benchmarks/export.tsv"
    conda:
        "../envs/images.yaml"
    threads: 1
    resources:
        mem_mb=gb(8),
        runtime=minutes(120),
    params:
        spec=PLAN.spec("export"),
        folder=subpath(output.card, parent=True),
    message:
        "data set and adapters for export"
    shell:
        """
        cgddi export \
            --spec {params.spec:q} \
            --index {input.index:q} \
            --lora {input.lora:q} \
            --embedding {input.embedding:q} \
            --output-dir {params.folder:q} \
            --threads {threads} 2>{log:q}
        """
