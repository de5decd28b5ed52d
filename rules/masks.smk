# Masks: photos and their five-class masks, brought to working size.
#
# In:  the image sheet's photos and masks of one batch (rows of one cohort and concept)
# Out: masks/<cohort>/<batch>.tar: png, mask.png where masked


rule masks:
    input:
        photos=lambda w: [p.file for p in PLAN.batches[w.cohort][w.batch]],
        masks=lambda w: [p.mask for p in PLAN.batches[w.cohort][w.batch] if p.mask],
    output:
        multiext(f"{R}/masks/{{cohort}}/{{batch}}", tar=".tar", manifest=".jsonl", record=".json"),
    log:
        f"{R}/logs/masks/{{cohort}}/{{batch}}.log",
    benchmark:
        f"{R}/benchmarks/masks/{{cohort}}/{{batch}}.tsv"
    priority: 50
    conda:
        "../envs/images.yaml"
    threads: 1
    resources:
        mem_mb=gb(2),
        runtime=minutes(20),
    params:
        spec=lambda w: PLAN.masks_spec(w.cohort, w.batch),
    message:
        "masks of {wildcards.cohort}, batch {wildcards.batch}"
    shell:
        """
        cgddi masks \
            --spec {params.spec:q} \
            --output {output.tar:q} \
            --threads {threads} 2>{log:q}
        """


# Reading published masks takes seconds a batch, less than a cluster job takes to start; automatic masks take a GPU.
if all((PLAN.cohort(name).masks or PLAN.config.masks).source == "human" for name in PLAN.by_cohort):

    localrules:
        masks,
