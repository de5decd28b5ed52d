# Report: one HTML page with the pictures, the audits and the tables.
#
# In:  fairness tables, audits, contact sheets, canvases, samples; with automatic masks or the FEDD study also masks and its tables
# Out: report/index.html


rule report:
    input:
        summary=rules.fairness.output.summary,
        audits=expand(
            f"{R}/audit/{{split}}/{{kind}}.json",
            split=PLAN.config.splits,
            kind=["leakage", "quality", "tone", "memorisation"],
        ),
        index=expand(f"{R}/index/{{split}}.parquet", split=PLAN.config.splits),
        samples=[f"{R}/lora/{scope}/{concept}/samples.png" for scope, concept in PLAN.adapters],
        review=rules.review.output.page,
        healthy=all_healthy_archives(PLAN.canvas_cohorts),
        fedd=[f"{R}/fedd/tables/summary.json"] if PLAN.config.fedd.study else [],
        masks=all_photo_archives(PLAN.by_cohort) if PLAN.reports_masks else [],
        canvases=[archive("canvases", cohort) for cohort in PLAN.canvas_cohorts] if PLAN.reports_masks else [],
        mapped=[archive("lesion_mapped", cohort, d.image_id) for cohort, d in PLAN.pairs] if PLAN.reports_masks else [],
        human=[file for found in PLAN.human_masks.values() for file in found["files"].values()],
    output:
        page=f"{R}/report/index.html",
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
    params:
        spec=PLAN.report_spec(),
        logs=f"{R}/logs",
        fedd=lambda w, input: " ".join(
            options(f"--{name}", input[name]) for name in ("fedd", "masks", "canvases", "mapped")
        ),
    message:
        "report"
    shell:
        """
        cgddi report \
            --spec {params.spec:q} \
            --logs {params.logs:q} \
            --summary {input.summary:q} \
            --audits {input.audits:q} \
            --index {input.index:q} \
            --samples {input.samples:q} \
            --review {input.review:q} \
            --healthy {input.healthy:q} \
            {params.fedd} \
            --output {output.page:q} \
            --threads {threads} 2>{log:q}
        """
