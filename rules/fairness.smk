# Fairness: accuracy and fairness of all classifiers, with counts and intervals.
#
# In:  every predictions.csv
# Out: fairness/summary.json and its tables and plots


rule fairness:
    input:
        unpack(inputs("fairness")),
    output:
        **PATHS.outputs("fairness"),
    log:
        PATHS.log("fairness"),
    benchmark:
        PATHS.benchmark("fairness")
    priority: urgency("fairness")
    conda:
        "../envs/classify.yaml"
    threads: 1
    resources:
        mem_mb=gb(8),
        runtime=minutes(60),
    params:
        cgddi=command,
        folder=subpath(output.summary, parent=True),
    message:
        "fairness tables"
    shell:
        """
        {params.cgddi} fairness \
            --spec {input.spec:q} \
            --output-dir {params.folder:q} \
            --threads {threads} 2>{log:q}
        """
