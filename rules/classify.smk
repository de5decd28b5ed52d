# Classify: one classifier per split, regime, method and seed.
#
# In:  index/<split>.parquet behind its leakage gate; for a fine-tuning regime the weights it starts from
# Out: classify/<split>/<regime>/<method>/<seed>/predictions.csv, weights.safetensors, record.json


rule classify:
    input:
        unpack(inputs("classify")),
    output:
        **PATHS.outputs("classify"),
    log:
        text=PATHS.log("classify"),
        metrics=PATHS.metrics("classify"),
    benchmark:
        PATHS.benchmark("classify")
    priority: urgency("classify")
    conda:
        "../envs/classify.yaml"
    threads: 8
    resources:
        gpu=PLAN.config.classify.num_processes,
        mem_mb=gb(24),
        runtime=minutes(240),
    params:
        cgddi=command,
        folder=subpath(output.weights, parent=True),
        state=state("classify"),
    message:
        "{wildcards.method} on {wildcards.regime}, split {wildcards.split}, seed {wildcards.run_seed}"
    shell:
        """
        {params.cgddi} --gpus {resources.gpu} classify \
            --spec {input.spec:q} \
            --output-dir {params.folder:q} \
            --state {params.state:q} \
            --metrics {log.metrics:q} \
            --threads {threads} 2>{log.text:q}
        """
