# Audits: the leakage gate, and the quality, tone and memorisation of what was generated; healthy skin and masks of the whole run.
#
# In:  index/<split>.parquet and the archives it points into; healthy, canvases, masks, lesion_mapped
# Out: audit/<split>/{leakage,quality,tone,memorisation}.json; a leak fails the build
#      audit/{healthy,masks}.tar: examples, and tables in the record beside it


rule leakage:
    input:
        unpack(inputs("leakage")),
    output:
        **PATHS.outputs("leakage"),
    log:
        PATHS.log("leakage"),
    benchmark:
        PATHS.benchmark("leakage")
    priority: urgency("leakage")
    conda:
        "../envs/classify.yaml"
    threads: 1
    resources:
        mem_mb=gb(8),
        runtime=minutes(60),
    params:
        cgddi=command,
    message:
        "leakage gate of split {wildcards.split}"
    shell:
        """
        {params.cgddi} audit leakage \
            --spec {input.spec:q} \
            --output {output.report:q} \
            --threads {threads} 2>{log:q}
        """


rule audit:
    input:
        unpack(inputs("audit")),
    output:
        **PATHS.outputs("audit"),
    log:
        text=PATHS.log("audit"),
        metrics=PATHS.metrics("audit"),
    benchmark:
        PATHS.benchmark("audit")
    priority: urgency("audit")
    conda:
        "../envs/classify.yaml"
    threads: 4
    resources:
        gpu=lambda w: 1 if w.kind == "quality" else 0,
        mem_mb=gb(16),
        runtime=minutes(120),
    params:
        cgddi=command,
    message:
        "{wildcards.kind} audit of split {wildcards.split}"
    shell:
        """
        {params.cgddi} --gpus {resources.gpu} audit {wildcards.kind} \
            --spec {input.spec:q} \
            --output {output.report:q} \
            --metrics {log.metrics:q} \
            --threads {threads} 2>{log.text:q}
        """


rule audit_pictures:
    input:
        unpack(inputs("audit_pictures")),
    output:
        **PATHS.outputs("audit_pictures"),
    log:
        PATHS.log("audit_pictures"),
    benchmark:
        PATHS.benchmark("audit_pictures")
    priority: urgency("audit_pictures")
    conda:
        "../envs/classify.yaml"
    threads: 1
    resources:
        mem_mb=gb(8),
        runtime=minutes(60),
    params:
        cgddi=command,
    message:
        "audit of the run's {wildcards.pictures}"
    shell:
        """
        {params.cgddi} audit {wildcards.pictures} \
            --spec {input.spec:q} \
            --output {output.tar:q} \
            --threads {threads} 2>{log:q}
        """
