# Every stage on ml-100k, which RecBole ships: no download, a few minutes on two CPU cores. From the repository:
# snakemake -s properties/pipeline/demo.smk -j2 [-n] [--config posters=FOLDER epochs=3]
include: "common.smk"


NAME = "ml-100k"
PRETRAINED = f"{SAVED}/pretrained/{NAME}"


rule all:
    input:
        f"{SAVED}/benchmark/table.md",


rule atomic:  # raw -> atomic files
    output:
        data(NAME, "inter"),
        data(NAME, "item"),
    params:
        data_path=config["data_path"],
    shell:
        "recbole-qbert prepare sample --data_path={params.data_path:q}"


rule text:  # atomic -> text vectors
    input:
        data(NAME, "item"),
    output:
        data(NAME, "text.npz"),
    params:
        name=NAME,
        data_path=config["data_path"],
    shell:
        "recbole-qbert embed text --dataset={params.name} --data_path={params.data_path:q}"
        " --fields=movie_title,release_year,class --merge"


rule image:  # pictures -> image vectors
    input:
        data(NAME, "item"),
        folder=config["posters"] or [],
    output:
        data(NAME, "image.npz"),
    params:
        name=NAME,
        data_path=config["data_path"],
    shell:
        "recbole-qbert embed image --dataset={params.name} --data_path={params.data_path:q}"
        " --folder={input.folder:q}"


rule tokenize:  # vectors -> semantic IDs
    input:
        data(NAME, "inter"),
        data(NAME, "text.npz"),
        data(NAME, "image.npz") if config["posters"] else [],
        settings=PROPERTIES / "demo_tokenize.yaml",
    output:
        data(NAME, "semid"),
    params:
        name=NAME,
        data_path=config["data_path"],
    threads: 2
    shell:
        "recbole-qbert tokenize --dataset={params.name} --data_path={params.data_path:q}"
        " --config_files={input.settings:q}"


rule pretrain:  # the paper's masks, on the same data set
    input:
        data(NAME, "inter"),
        data(NAME, "semid"),
    output:
        f"{PRETRAINED}/manifest.json",
    params:
        name=NAME,
        data_path=config["data_path"],
        saved=SAVED,
        place=PRETRAINED,
        epochs=config["epochs"],
    threads: 2
    shell:
        "recbole-qbert pretrain --datasets={params.name} --data_path={params.data_path:q}"
        " --checkpoint_dir={params.saved:q} --output={params.place:q} --retrain=True"
        " --hidden_size=64 --inner_size=256 --MAX_ITEM_LIST_LENGTH=50 --train_batch_size=32"
        " --epochs={params.epochs}"


rule benchmark:  # fine-tuned, from scratch, other models and controls, side by side
    input:
        data(NAME, "inter"),
        data(NAME, "semid"),
        f"{PRETRAINED}/manifest.json",
        file=PROPERTIES / "benchmark/demo.yaml",
    output:
        f"{SAVED}/benchmark/table.md",
    params:
        data_path=config["data_path"],
        saved=SAVED,
        pretrained=PRETRAINED,
        epochs=config["epochs"],
    threads: 2  # as many runs at a time, of a thread each
    shell:
        "OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 recbole-qbert benchmark {input.file:q} --data_path={params.data_path:q}"
        " --checkpoint_dir={params.saved:q} --retrain=True --max_concurrent={threads}"
        " --models.QBERT4Rec.pre_model_path={params.pretrained:q} --seeds=2026"
        " --augmentation=none --MAX_ITEM_LIST_LENGTH=50 --train_batch_size=32"
        " --epochs={params.epochs}"
