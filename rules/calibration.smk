# Calibration: the limits that samples are checked by, from real photos and their canvases.
#
# In:  masks/<first cohort>/*.tar of the scope's training photos, canvases/<first cohort>.tar
# Out: calibration/<scope>.json


rule calibration:
    input:
        unpack(inputs("calibration")),
    output:
        **PATHS.outputs("calibration"),
    log:
        PATHS.log("calibration"),
    benchmark:
        PATHS.benchmark("calibration")
    priority: urgency("calibration")
    conda:
        "../envs/images.yaml"
    threads: 1
    resources:
        mem_mb=gb(4),
        runtime=minutes(30),
    params:
        cgddi=command,
    message:
        "limits for the check of samples ({wildcards.scope})"
    shell:
        """
        {params.cgddi} calibration \
            --spec {input.spec:q} \
            --output {output.limits:q} \
            --threads {threads} 2>{log:q}
        """
