# Lesion mapping: one donor's lesion transplanted onto every canvas of a cohort.
#
# In:  masks/<donor's cohort>/<donor's batch>.tar, canvases/<canvas cohort>.tar
# Out: lesion_mapped/<canvas cohort>/<donor>.tar: png, mask.png

DONOR = {donor.image_id: donor for _, donor in PLAN.pairs}


rule lesion_mapped:
    input:
        photos=lambda w: photo_archives([DONOR[w.donor]])[0],
        canvases=f"{R}/canvases/{{canvas_cohort}}.jsonl",
    output:
        multiext(f"{R}/lesion_mapped/{{canvas_cohort}}/{{donor}}", tar=".tar", manifest=".jsonl", record=".json"),
    log:
        f"{R}/logs/lesion_mapped/{{canvas_cohort}}/{{donor}}.log",
    benchmark:
        f"{R}/benchmarks/lesion_mapped/{{canvas_cohort}}/{{donor}}.tsv"
    conda:
        "../envs/images.yaml"
    threads: 1
    resources:
        mem_mb=gb(2),
        runtime=minutes(20),
    params:
        spec=lambda w: PLAN.lesion_mapped_spec(w.canvas_cohort, w.donor),
    message:
        "lesion of {wildcards.donor} onto the canvases of {wildcards.canvas_cohort}"
    shell:
        """
        cgddi lesion-mapped \
            --spec {params.spec:q} \
            --photos {input.photos:q} \
            --canvases {input.canvases:q} \
            --output {output.tar:q} \
            --threads {threads} 2>{log:q}
        """
