# Amazon Scientific from CLIP vectors, as in results/scientific.md. It needs dataset/Scientific/Scientific.inter,
# .clip_text.npy, .clip_image.npy and .embedding_items.txt; half an hour on two CPU cores. From the repository:
# snakemake -s properties/pipeline/scientific.smk -j2 [-n] [--config table=scientific]
include: "common.smk"


NAME = "Scientific"


rule all:
    input:
        f"{SAVED}/benchmark/table.md",


rule vectors:  # matrices -> embedding tables
    input:
        matrix=data(NAME, "clip_{modality}.npy"),
        tokens=data(NAME, "embedding_items.txt"),
    output:
        data(NAME, "{modality}.npz"),
    params:
        name=NAME,
        data_path=config["data_path"],
    shell:
        "recbole-qbert embed vectors --dataset={params.name} --data_path={params.data_path:q}"
        " --modality={wildcards.modality} --matrix={input.matrix:q} --items={input.tokens:q}"
        " --encoder=CLIP"


rule tokenize:  # vectors -> semantic IDs; the codebook size is that of results/scientific.md
    input:
        data(NAME, "inter"),
        expand(data(NAME, "{modality}.npz"), modality=config["modalities"]),
    output:
        data(NAME, "semid"),
    params:
        name=NAME,
        data_path=config["data_path"],
    threads: 2
    shell:
        "recbole-qbert tokenize --dataset={params.name} --data_path={params.data_path:q}"
        " --codebook_size=64"


rule benchmark:  # models side by side, with controls
    input:
        data(NAME, "inter"),
        data(NAME, "semid"),
        file=PROPERTIES / f"benchmark/{config['table']}.yaml",
    output:
        f"{SAVED}/benchmark/table.md",
    params:
        name=NAME,
        data_path=config["data_path"],
        saved=SAVED,
    threads: 2  # as many runs at a time, of a thread each
    shell:
        "OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 recbole-qbert benchmark {input.file:q} --datasets={params.name}"
        " --data_path={params.data_path:q} --checkpoint_dir={params.saved:q} --retrain=True"
        " --max_concurrent={threads}"
