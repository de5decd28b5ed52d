# LoRA: a concept's adapter, trained with prior preservation on the first cohort's canvases.
#
# In:  the concepts' training photos, their tokens, canvases/<first cohort>.tar, the split that keeps test canvases out
# Out: lora/<scope>/<concept>/pytorch_lora_weights.safetensors, samples.png, record.json
#
# One job trains one concept, or a pack of `lora.concepts_per_job` of them over one frozen base. A pack leaves
# lora/<scope>/packs/<pack>.tar, and a job of a moment gives each concept its files, so that one file stands for one concept.
# Beside the tar lies <pack>.json, its concepts, for the plan: no output here, since Snakemake deletes outputs before a job.

PRIORS = PLAN.canvas_cohorts[0] if PLAN.canvas_cohorts else "none"
TOGETHER = PLAN.config.lora.concepts_per_job
ADAPTER = {
    "weights": f"{R}/lora/{{scope}}/{{concept}}/pytorch_lora_weights.safetensors",
    "samples": f"{R}/lora/{{scope}}/{{concept}}/samples.png",
    "record": f"{R}/lora/{{scope}}/{{concept}}/record.json",
}
WHO = "{concept}" if TOGETHER == 1 else "packs/{pack}"


rule lora:
    input:
        photos=lambda w: photo_archives(p for c in trained_together(w) for p in PLAN.training[w.scope, c]),
        canvases=f"{R}/canvases/{PRIORS}.jsonl",
        split=lambda w: split_of(w.scope, PRIORS),
        embedding=lambda w: [f"{R}/embedding/{w.scope}/{c}/learned_embeds.safetensors" for c in trained_together(w)],
    output:
        **(ADAPTER if TOGETHER == 1 else {"pack": f"{R}/lora/{{scope}}/packs/{{pack}}.tar"}),
    log:
        text=f"{R}/logs/lora/{{scope}}/{WHO}.log",
        metrics=f"{R}/logs/lora/{{scope}}/{WHO}.metrics.jsonl",
    benchmark:
        f"{R}/benchmarks/lora/{{scope}}/{WHO}.tsv"
    priority: 20
    conda:
        "../envs/diffusion.yaml"
    threads: 4
    resources:
        gpu=1,
        mem_mb=gb(24),
        runtime=lambda w, attempt: minutes(60 * len(trained_together(w)))(w, attempt),
    params:
        spec=lambda w: (
            PLAN.generator_spec("lora", w.scope, w.concept) if TOGETHER == 1 else PLAN.pack_spec(w.scope, w.pack)
        ),
        place=lambda w, output: (
            option("--output-dir", [Path(output[0]).parent])
            if TOGETHER == 1
            else option("--output-pack", [output.pack])
        ),
        split=lambda w, input: option("--split", input.split),
        state=f"{R}/.state/lora/{{scope}}/{WHO}",
        who=lambda w: f"adapter{'s' * (TOGETHER > 1)} of {', '.join(trained_together(w))}",
    message:
        "{params.who} ({wildcards.scope})"
    shell:
        """
        cgddi --gpus {resources.gpu} lora \
            --spec {params.spec:q} \
            --photos {input.photos:q} \
            --canvases {input.canvases:q} \
            {params.split} \
            --embedding {input.embedding:q} \
            {params.place} \
            --state {params.state:q} \
            --cache "$CGDDI_CACHE" \
            --metrics {log.metrics:q} \
            --threads {threads} 2>{log.text:q}
        """


if TOGETHER > 1:

    localrules:
        adapter,

    rule adapter:
        input:
            pack=lambda w: f"{R}/lora/{w.scope}/packs/{PLAN.pack_of[w.scope, w.concept]}.tar",
        output:
            **ADAPTER,
        log:
            f"{R}/logs/lora/{{scope}}/{{concept}}.log",
        priority: 20
        conda:
            "../envs/diffusion.yaml"
        threads: 1
        resources:
            mem_mb=100,
            runtime=5,
        params:
            folder=f"{R}/lora/{{scope}}",
        message:
            "adapter of {wildcards.concept} out of its pack ({wildcards.scope})"
        shell:
            """
            tar --extract --touch --file {input.pack:q} --directory {params.folder:q} {wildcards.concept:q} 2>{log:q}
            """
