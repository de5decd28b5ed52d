# Published: every published figure beside the run's own.
#
# In:  fairness tables, the quality audit, manifests of generated images, tables of a FEDD study: what the published table asks for
# Out: published/index.html, published/published.csv; below tables/<name>/ where published.table names one


rule published:
    input:
        unpack(inputs("published")),
    output:
        **shown("published"),
    log:
        PATHS.log("published"),
    benchmark:
        PATHS.benchmark("published")
    priority: urgency("published")
    conda:
        "../envs/classify.yaml"
    threads: 1
    resources:
        mem_mb=gb(4),
        runtime=minutes(30),
    params:
        cgddi=command,
    message:
        "published figures beside ours"
    shell:
        """
        {params.cgddi} published \
            --spec {input.spec:q} \
            --output {output.page:q} \
            --threads {threads} 2>{log:q}
        """


rule tables:
    """One published table beside ours: `--configfile config/paper/base.yaml config/paper/NAME.yaml`."""
    input:
        PLAN.table_files(),
