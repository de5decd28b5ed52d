# Splits and the index: which photo is train, validation or test, and every image a split may learn from, with its lineage.
#
# In:  the image sheet; the manifests of all photos and generated images
# Out: splits/<split>/<cohort>.csv; index/<split>.parquet, index/<split>.json


rule split:
    output:
        table=f"{R}/splits/{{split}}/{{cohort}}.csv",
    log:
        f"{R}/logs/splits/{{split}}/{{cohort}}.log",
    params:
        assignment=lambda w: PLAN.split_hash(w.split, w.cohort),
    message:
        "split {wildcards.split} of {wildcards.cohort}"
    run:
        PLAN.write_split(wildcards.split, wildcards.cohort, output.table)


rule index:
    input:
        splits=lambda w: expand(f"{R}/splits/{w.split}/{{c}}.csv", c=PLAN.split_cohorts(w.split)),
        photos=lambda w: all_photo_archives(PLAN.split_cohorts(w.split)),
        healthy=[archive("canvases", cohort) for cohort in PLAN.canvas_cohorts],
        mapped=[archive("lesion_mapped", cohort, donor.image_id) for cohort, donor in PLAN.pairs],
        semantic=lambda w: [
            archive("semantic", scope, cohort, concept)
            for scope, cohort, concept in PLAN.samples
            if scope == PLAN.scope_of(w.split)
        ],
    output:
        table=f"{R}/index/{{split}}.parquet",
        record=f"{R}/index/{{split}}.json",
    log:
        f"{R}/logs/index/{{split}}.log",
    benchmark:
        f"{R}/benchmarks/index/{{split}}.tsv"
    conda:
        "../envs/images.yaml"
    threads: 1
    resources:
        mem_mb=gb(8),
        runtime=minutes(60),
    params:
        spec=lambda w: PLAN.index_spec(w.split),
    message:
        "index of split {wildcards.split}"
    shell:
        """
        cgddi index \
            --spec {params.spec:q} \
            --splits {input.splits:q} \
            --photos {input.photos:q} \
            --healthy {input.healthy:q} \
            --mapped {input.mapped:q} \
            --semantic {input.semantic:q} \
            --output {output.table:q} \
            --threads {threads} 2>{log:q}
        """
