# The paper: six source domains, three targets, from the raw Amazon files of 2018 to its Table 2. It needs ratings and
# metadata of the nine domains below raw/, and GPUs for days. From the repository, first with -n:
# snakemake -s properties/pipeline/paper.smk -j4
include: "common.smk"


from glob import glob

import yaml

PLAN = PROPERTIES / "benchmark/paper.yaml"
ROWS = yaml.safe_load(PLAN.read_text())
MODELS = [row["model"] for row in ROWS["models"]] + ["IDBERT4Rec"]  # a control that is trained
DOMAINS = list(dict.fromkeys([*config["sources"], *config["targets"]]))
PRETRAINED = f"{SAVED}/pretrained/paper"


wildcard_constraints:
    domain="|".join(DOMAINS),
    model="|".join(MODELS),
    seed=r"\d+",


localrules:
    all,
    pictures,


rule all:
    input:
        f"{SAVED}/benchmark/table.md",


def raw_files(wildcards):
    """Ratings and metadata of a domain; where there are none, Snakemake says so."""
    pattern = f"{config['raw']}/*{config['amazon'][wildcards.domain]}*"
    return sorted(glob(pattern)) or pattern


rule candidates:  # raw -> items whose pictures are wanted
    input:
        raw_files,
    output:
        f"{config['data_path']}/{{domain}}-candidates/{{domain}}-candidates.item",
    params:
        raw=config["raw"],
        data_path=config["data_path"],
    shell:
        "recbole-qbert prepare amazon --category={wildcards.domain}"
        " --dataset={wildcards.domain}-candidates --release=2018 --folder={params.raw:q}"
        " --data_path={params.data_path:q} --require=image --overwrite"


rule pictures:  # URLs -> pictures; items whose pictures cannot be fetched are left out
    input:
        f"{config['data_path']}/{{domain}}-candidates/{{domain}}-candidates.item",
    output:
        touch(f"{config['pictures']}/{{domain}}.done"),
    params:
        folder=f"{config['pictures']}/{{domain}}",
    shell:
        "recbole-qbert prepare download --items={input:q} --column=image_url"
        " --output={params.folder:q} --pictures --allow_failed"


rule atomic:  # raw -> atomic files: 5-core of the items that have a picture; longer texts go, as MQL4GRec's
    input:
        raw_files,
        f"{config['pictures']}/{{domain}}" + (".done" if config["download"] else ""),
    output:
        data("{domain}", "inter"),
        data("{domain}", "item"),
    params:
        raw=config["raw"],
        data_path=config["data_path"],
        pictures=f"{config['pictures']}/{{domain}}",
    shell:
        "recbole-qbert prepare amazon --category={wildcards.domain} --release=2018"
        " --folder={params.raw:q} --data_path={params.data_path:q}"
        " --pictures={params.pictures:q} --require=image --longest=2000 --overwrite"


rule text:  # atomic -> text vectors
    input:
        data("{domain}", "item"),
    output:
        data("{domain}", "text.npz"),
    params:
        data_path=config["data_path"],
        fields=",".join(config["text_fields"]),
        encoder=config["text_encoder"],
    threads: 8
    shell:
        "recbole-qbert embed text --dataset={wildcards.domain} --data_path={params.data_path:q}"
        " --fields={params.fields:q} --encoder={params.encoder:q}"


rule image:  # pictures -> image vectors
    input:
        data("{domain}", "item"),
    output:
        data("{domain}", "image.npz"),
    params:
        data_path=config["data_path"],
        folder=f"{config['pictures']}/{{domain}}",
        encoder=config["image_encoder"],
        weights=f"--pretrained={config['image_weights']}" if config["image_weights"] else [],
    threads: 8
    shell:
        "recbole-qbert embed image --dataset={wildcards.domain} --data_path={params.data_path:q}"
        " --folder={params.folder:q} --encoder={params.encoder:q} {params.weights:q}"


rule tokenize:  # vectors of all domains -> semantic IDs of one vocabulary
    input:
        [data(name, suffix) for name in DOMAINS for suffix in ("inter", "text.npz", "image.npz")],
        settings=PROPERTIES / "paper_tokenize.yaml",
    output:
        [data(name, "semid") for name in DOMAINS],
    params:
        names=",".join(DOMAINS),
        data_path=config["data_path"],
    threads: 8
    shell:
        "recbole-qbert tokenize --dataset={params.names} --data_path={params.data_path:q}"
        " --config_files={input.settings:q}"


rule pretrain:  # one model over the sources, with the paper's masks
    input:
        [data(name, suffix) for name in config["sources"] for suffix in ("inter", "semid")],
    output:
        f"{PRETRAINED}/manifest.json",
    params:
        names=",".join(config["sources"]),
        data_path=config["data_path"],
        saved=SAVED,
        place=PRETRAINED,
        epochs=config["pretrain_epochs"],
    threads: 8
    shell:
        "recbole-qbert pretrain --datasets={params.names} --data_path={params.data_path:q}"
        " --checkpoint_dir={params.saved:q} --output={params.place:q} --retrain=True"
        " --use_tuned=False --epochs={params.epochs}"


BENCHMARK = (
    "recbole-qbert benchmark {input.file:q} --data_path={params.data_path:q}"
    " --checkpoint_dir={params.saved:q} --retrain=True"
)


rule train:  # one model on one target with one seed, the pretrained one also from scratch
    input:
        data("{domain}", "inter"),
        data("{domain}", "semid"),
        lambda wildcards: f"{PRETRAINED}/manifest.json" if wildcards.model == "QBERT4Rec" else [],
        file=PLAN,
    output:
        f"{SAVED}/benchmark/{{domain}}/{{model}}-seed{{seed}}/table.md",
    params:
        data_path=config["data_path"],
        saved=SAVED,
        place=lambda wildcards, output: Path(output[0]).parent,
        start=lambda wildcards: f"--models.QBERT4Rec.pre_model_path={PRETRAINED}"
        if wildcards.model == "QBERT4Rec"
        else [],
    threads: 8
    shell:
        BENCHMARK + " --models={wildcards.model} --datasets={wildcards.domain}"
        " --seeds={wildcards.seed} --controls=False --output={params.place:q} {params.start:q}"


rule benchmark:  # what was trained, side by side, with the controls that only count
    input:
        expand(
            f"{SAVED}/benchmark/{{domain}}/{{model}}-seed{{seed}}/table.md",
            domain=config["targets"],
            model=MODELS,
            seed=ROWS["seeds"],
        ),
        file=PLAN,
    output:
        f"{SAVED}/benchmark/table.md",
    params:
        data_path=config["data_path"],
        saved=SAVED,
        targets=",".join(config["targets"]),
        pretrained=PRETRAINED,
    shell:
        BENCHMARK + " --datasets={params.targets}"
        " --models.QBERT4Rec.pre_model_path={params.pretrained:q}"
