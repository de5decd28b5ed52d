# Report: one HTML page with the pictures, the audits and the tables.
#
# In:  fairness tables, audits, contact sheets, canvases, samples
# Out: report/index.html


rule report:
    message:
        "report"
    input:
        summary=rules.fairness.output.summary,
        audits=expand(
            f"{R}/audit/{{split}}/{{kind}}.json",
            split=PLAN.config.splits,
            kind=["leakage", "quality", "tone", "memorisation"],
        ),
        index=expand(f"{R}/index/{{split}}.parquet", split=PLAN.config.splits),
        samples=[f"{R}/lora/{scope}/{concept}/samples.png" for scope, concept in PLAN.training],
        review=rules.review.output.page,
    output:
        page=f"{R}/report/index.html",
    params:
        spec=PLAN.spec("report", project=PLAN.config.results),
    log:
        f"{R}/logs/report.log",
    benchmark:
        f"{R}/benchmarks/report.tsv"
    conda:
        "../envs/classify.yaml"
    threads: 1
    resources:
        mem_mb=gb(8),
        runtime=minutes(60),
    shell:
        """
        {CGDDI} report \
            --spec {params.spec:q} \
            --results {R:q} \
            --summary {input.summary:q} \
            --audits {input.audits:q} \
            --index {input.index:q} \
            --samples {input.samples:q} \
            --review {input.review:q} \
            --output {output.page:q} \
            --threads {threads} 2> {log:q}
        """
