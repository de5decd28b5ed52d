# Export: what leaves the lab, as a Hugging Face data set and adapters in diffusers' layout. Not part of `all`.
#
# In:  every index, adapter and token
# Out: export/README.md and the folders beside it


rule export:
    input:
        unpack(inputs("export")),
    output:
        **PATHS.outputs("export"),
    log:
        PATHS.log("export"),
    benchmark:
        PATHS.benchmark("export")
    priority: urgency("export")
    localrule: True
    conda:
        "../envs/images.yaml"
    threads: 1
    resources:
        mem_mb=gb(8),
        runtime=minutes(120),
    params:
        cgddi=command,
        folder=subpath(output.card, parent=True),
    message:
        "data set and adapters for export"
    shell:
        """
        {params.cgddi} export \
            --spec {input.spec:q} \
            --output-dir {params.folder:q} \
            --threads {threads} 2>{log:q}
        """
