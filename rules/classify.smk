# Classify: one classifier per split, regime, method and seed.
#
# In:  index/<split>.parquet behind its leakage gate; for a fine-tuning regime the weights it starts from
# Out: classify/<split>/<regime>/<method>/<seed>/predictions.csv, weights.safetensors, record.json


rule classify:
    input:
        index=rules.index.output.table,
        leakage=rules.leakage.output.report,
        init=lambda w: initial_weights(w.split, w.regime, w.method, w.run_seed),
    output:
        predictions=f"{R}/classify/{{split}}/{{regime}}/{{method}}/{{run_seed}}/predictions.csv",
        weights=f"{R}/classify/{{split}}/{{regime}}/{{method}}/{{run_seed}}/weights.safetensors",
        record=f"{R}/classify/{{split}}/{{regime}}/{{method}}/{{run_seed}}/record.json",
    log:
        text=f"{R}/logs/classify/{{split}}/{{regime}}/{{method}}/{{run_seed}}.log",
        metrics=f"{R}/logs/classify/{{split}}/{{regime}}/{{method}}/{{run_seed}}.metrics.jsonl",
    benchmark:
        f"{R}/benchmarks/classify/{{split}}/{{regime}}/{{method}}/{{run_seed}}.tsv"
    conda:
        "../envs/classify.yaml"
    threads: 8
    resources:
        gpu=1,
        mem_mb=gb(24),
        runtime=minutes(240),
    params:
        spec=lambda w: PLAN.classify_spec(w.split, w.regime, w.method, int(w.run_seed)),
        folder=subpath(output.weights, parent=True),
        init=lambda w, input: option("--init", input.init),
    message:
        "{wildcards.method} on {wildcards.regime}, split {wildcards.split}, seed {wildcards.run_seed}"
    shell:
        """
        cgddi --gpus {resources.gpu} classify \
            --spec {params.spec:q} \
            --index {input.index:q} \
            --leakage {input.leakage:q} \
            {params.init} \
            --output-dir {params.folder:q} \
            --metrics {log.metrics:q} \
            --threads {threads} 2>{log.text:q}
        """
