# FEDD: features of a frozen diffusion model, the segmenter behind automatic masks, and the study: IoU, malignancy, baselines.
#
# In:  photos; the mask files of the labelled cohort
# Out: fedd/features/<cohort>/t<timestep>/<batch>.safetensors: computed once, read by segmenter, probe and masks
#      fedd/segmenter/<variant>/<subset>/<seed>/, fedd/probe/<subset>/t<timestep>/, fedd/baseline/<task>/<network>/<subset>/<seed>/
#      fedd/tables/: tables and pictures, also a section of the report when fedd.study is true


rule fedd_features:
    input:
        unpack(inputs("fedd_features")),
    output:
        **PATHS.outputs("fedd_features"),
    log:
        text=PATHS.log("fedd_features"),
        metrics=PATHS.metrics("fedd_features"),
    benchmark:
        PATHS.benchmark("fedd_features")
    priority: urgency("fedd_features")
    conda:
        "../envs/diffusion.yaml"
    threads: 4
    resources:
        gpu=1,
        mem_mb=gb(16),
        runtime=minutes(60),
    params:
        cgddi=command,
    message:
        "diffusion features of {wildcards.cohort}, batch {wildcards.features_batch}, timestep {wildcards.timestep}"
    shell:
        """
        {params.cgddi} --gpus {resources.gpu} fedd features \
            --spec {input.spec:q} \
            --output {output.features:q} \
            --metrics {log.metrics:q} \
            --threads {threads} 2>{log.text:q}
        """


rule fedd_segmenter:
    input:
        unpack(inputs("fedd_segmenter")),
    output:
        **PATHS.outputs("fedd_segmenter"),
    log:
        text=PATHS.log("fedd_segmenter"),
        metrics=PATHS.metrics("fedd_segmenter"),
    benchmark:
        PATHS.benchmark("fedd_segmenter")
    priority: urgency("fedd_segmenter")
    conda:
        "../envs/diffusion.yaml"
    threads: 4
    resources:
        gpu=1,
        mem_mb=gb(16),
        runtime=minutes(120),
    params:
        cgddi=command,
        folder=subpath(output.weights, parent=True),
        state=state("fedd_segmenter"),
    message:
        "segmenter {wildcards.variant} on subset {wildcards.subset}, seed {wildcards.run_seed}"
    shell:
        """
        {params.cgddi} --gpus {resources.gpu} fedd segmenter \
            --spec {input.spec:q} \
            --output-dir {params.folder:q} \
            --state {params.state:q} \
            --metrics {log.metrics:q} \
            --threads {threads} 2>{log.text:q}
        """


rule fedd_probe:
    input:
        unpack(inputs("fedd_probe")),
    output:
        **PATHS.outputs("fedd_probe"),
    log:
        text=PATHS.log("fedd_probe"),
        metrics=PATHS.metrics("fedd_probe"),
    benchmark:
        PATHS.benchmark("fedd_probe")
    priority: urgency("fedd_probe")
    conda:
        "../envs/diffusion.yaml"
    threads: 2
    resources:
        mem_mb=gb(4),
        runtime=minutes(60),
    params:
        cgddi=command,
        folder=subpath(output.record, parent=True),
        state=state("fedd_probe"),
    message:
        "malignancy probes on subset {wildcards.subset}, timestep {wildcards.timestep}"
    shell:
        """
        {params.cgddi} fedd probe \
            --spec {input.spec:q} \
            --output-dir {params.folder:q} \
            --state {params.state:q} \
            --metrics {log.metrics:q} \
            --threads {threads} 2>{log.text:q}
        """


rule fedd_baseline:
    input:
        unpack(inputs("fedd_baseline")),
    output:
        **PATHS.outputs("fedd_baseline"),
    log:
        text=PATHS.log("fedd_baseline"),
        metrics=PATHS.metrics("fedd_baseline"),
    benchmark:
        PATHS.benchmark("fedd_baseline")
    priority: urgency("fedd_baseline")
    conda:
        "../envs/classify.yaml"
    threads: 4
    resources:
        gpu=1,
        mem_mb=gb(16),
        runtime=minutes(60),
    params:
        cgddi=command,
        folder=subpath(output.weights, parent=True),
        state=state("fedd_baseline"),
    message:
        "segmentation by {wildcards.network} on subset {wildcards.subset}, seed {wildcards.run_seed}"
    shell:
        """
        {params.cgddi} --gpus {resources.gpu} fedd baseline \
            --spec {input.spec:q} \
            --output-dir {params.folder:q} \
            --state {params.state:q} \
            --metrics {log.metrics:q} \
            --threads {threads} 2>{log.text:q}
        """


rule fedd_classifier:
    input:
        unpack(inputs("fedd_classifier")),
    output:
        **PATHS.outputs("fedd_classifier"),
    log:
        text=PATHS.log("fedd_classifier"),
        metrics=PATHS.metrics("fedd_classifier"),
    benchmark:
        PATHS.benchmark("fedd_classifier")
    priority: urgency("fedd_classifier")
    conda:
        "../envs/classify.yaml"
    threads: 4
    resources:
        gpu=1,
        mem_mb=gb(16),
        runtime=minutes(60),
    params:
        cgddi=command,
        folder=subpath(output.weights, parent=True),
        state=state("fedd_classifier"),
    message:
        "classification by {wildcards.network} on subset {wildcards.subset}, seed {wildcards.run_seed}"
    shell:
        """
        {params.cgddi} --gpus {resources.gpu} fedd baseline \
            --spec {input.spec:q} \
            --output-dir {params.folder:q} \
            --state {params.state:q} \
            --metrics {log.metrics:q} \
            --threads {threads} 2>{log.text:q}
        """


rule fedd_tables:
    input:
        unpack(inputs("fedd_tables")),
    output:
        **PATHS.outputs("fedd_tables"),
    log:
        PATHS.log("fedd_tables"),
    benchmark:
        PATHS.benchmark("fedd_tables")
    priority: urgency("fedd_tables")
    conda:
        "../envs/classify.yaml"
    threads: 1
    resources:
        mem_mb=gb(8),
        runtime=minutes(60),
    params:
        cgddi=command,
        folder=subpath(output.summary, parent=True),
    message:
        "tables and pictures of the FEDD study"
    shell:
        """
        {params.cgddi} fedd tables \
            --spec {input.spec:q} \
            --output-dir {params.folder:q} \
            --threads {threads} 2>{log:q}
        """


rule fedd:
    """The FEDD study: segmenters, probes, baselines and their tables."""
    input:
        rules.fedd_tables.output,
