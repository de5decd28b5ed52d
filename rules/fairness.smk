# Fairness: accuracy and fairness of all classifiers, with counts and intervals; and against the number of synthetic images.
#
# In:  every predictions.csv; for the ladder those of its regimes
# Out: fairness/summary.json and its tables and plots; ladder/summary.json, ladder.csv, ladder.png


rule fairness:
    input:
        unpack(inputs("fairness")),
    output:
        **shown("fairness"),
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


rule ladder:
    """How figures grow with the synthetic images per real one (1, 5, 20, 100): a curve and its table."""
    input:
        unpack(inputs("ladder")),
    output:
        **shown("ladder"),
    log:
        PATHS.log("ladder"),
    benchmark:
        PATHS.benchmark("ladder")
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
        "ladder of synthetic images per real one"
    shell:
        """
        {params.cgddi} fairness \
            --spec {input.spec:q} \
            --output-dir {params.folder:q} \
            --threads {threads} 2>{log:q}
        """
