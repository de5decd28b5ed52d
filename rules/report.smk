# Report: one HTML page with the pictures, the audits and the tables.
#
# In:  fairness tables, audits, sample sheets, the index and the images it points into; the tables of a FEDD study
# Out: report/index.html, report/real-or-made.html, report/record.json; pictures and tables (csv) of the pages lie beside them


rule report:
    input:
        unpack(inputs("report")),
    output:
        **shown("report"),
    log:
        PATHS.log("report"),
    benchmark:
        PATHS.benchmark("report")
    priority: urgency("report")
    conda:
        "../envs/classify.yaml"
    threads: 1
    resources:
        mem_mb=gb(8),
        runtime=minutes(60),
    params:
        cgddi=command,
        logs=logs,
    message:
        "report"
    shell:
        """
        {params.cgddi} report \
            --spec {input.spec:q} \
            --logs {params.logs:q} \
            --output {output.page:q} \
            --threads {threads} 2>{log:q}
        """
