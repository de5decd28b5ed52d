# Semantic: samples of a concept on a cohort's canvases, in three tones, checked and drawn again where they fail.
#
# In:  canvases/<canvas cohort>.tar, the concept's token and adapter, the split that keeps test canvases out; for the check its
#      limits (calibration/<scope>.json) and the adapter's training photos
# Out: semantic/<scope>/<canvas cohort>/<concept>.tar: png


rule semantic:
    input:
        unpack(inputs("semantic")),
    output:
        **PATHS.outputs("semantic"),
    log:
        text=PATHS.log("semantic"),
        metrics=PATHS.metrics("semantic"),
    benchmark:
        PATHS.benchmark("semantic")
    priority: urgency("semantic")
    conda:
        "../envs/diffusion.yaml"
    threads: 4
    resources:
        gpu=1,
        mem_mb=gb(24),
        runtime=minutes(240),
    params:
        cgddi=command,
        cache=cache,
    message:
        "samples of {wildcards.concept} on {wildcards.canvas_cohort} ({wildcards.scope})"
    shell:
        """
        {params.cgddi} --gpus {resources.gpu} semantic \
            --spec {input.spec:q} \
            --output {output.tar:q} \
            --cache {params.cache:q} \
            --metrics {log.metrics:q} \
            --threads {threads} 2>{log.text:q}
        """
