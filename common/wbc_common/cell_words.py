"""Words of the published data sets for cells, and the finest classes (of the 13) that each can mean.

Matek-19 (TCIA AML-Cytomorphology), Matek-21 (bone marrow), Acevedo-20 (PBC), MLL23, Raabin, LISC, LDWBC, Zheng-18,
BCCD and Chula; in full and by their abbreviations, in lower case with underscores (`wbc_common.cells.normalise_label`).
A word for a thing that is none of the 13 classes is known too and left out, by name: a monoblast is a blast and no
myeloblast, a plasma cell no lymphocyte.
"""

_GRANULOCYTE_PRECURSORS = ("promyelocyte", "myelocyte", "metamyelocyte")
_NEUTROPHILS = ("band_neutrophil", "segmented_neutrophil")
_LYMPHOCYTES = ("typical_lymphocyte", "atypical_lymphocyte")

_OF: dict[tuple[str, ...], str] = {
    _NEUTROPHILS: "neutrophil neutrophils neut neutrophil_granulocyte",
    ("band_neutrophil",): (
        "neutrophil_band neutrophil_banded band_neutrophils banded_neutrophil rod_neutrophil band bands stab bne ngb"
    ),
    ("segmented_neutrophil",): (
        "neutrophil_segmented segmented_neutrophils lobed_neutrophil segmented segs seg sne ngs"
    ),
    _LYMPHOCYTES: (
        "lymphocyte lymphocytes lymp ly lymphocyte_large large_lymphocyte large_lymph "
        "lymphocyte_large_granular large_granular_lymphocyte"
    ),
    ("typical_lymphocyte",): "lymphocyte_typical lymphocyte_small small_lymphocyte small_lymph lyt",
    ("atypical_lymphocyte",): (
        "lymphocyte_atypical lymphocyte_reactive reactive_lymphocyte variant_lymphocyte lymphocyte_variant "
        "lymphocyte_variant_form lymphocyte_neoplastic neoplastic_lymphocyte lya"
    ),
    ("monocyte",): "monocytes mono mo mon",
    ("eosinophil",): "eosinophils eosinophil_granulocyte abnormal_eosinophil eosi eo eos abe",
    ("basophil",): "basophils basophil_granulocyte baso ba bas",
    ("erythroblast",): "erythroblasts normoblast normoblasts proerythroblast nrbc erb ebo peb",
    ("myeloblast",): "myeloblasts blast blasts myo bla",
    ("promyelocyte",): (
        "promyelocytes promyelocyte_bilobed promyelocyte_atypical atypical_promyelocyte faggot_cell faggott_cell "
        "pmo pmb pmy fgc"
    ),
    ("myelocyte",): "myelocytes myb my",
    ("metamyelocyte",): "metamyelocytes meta mmz mmy",
    _GRANULOCYTE_PRECURSORS: "immature_granulocyte immature_granulocytes ig",
    ("smudge_cell",): "smudge smudge_cells burst burst_cell ksc",
    (): (
        "platelet platelets giant_platelet thrombocyte thrombocytes giant_thrombocyte thrombocyte_aggregation plt "
        "red_blood_cell rbc monoblast mob lymphoblast prolymphocyte immature_lymphocyte lyi hairy_cell hac "
        "plasma_cell plasma_cells plm artifact artefact art mixt not_identifiable nif unknown other oth"
    ),
}
WORDS: dict[str, tuple[str, ...]] = {word: cells for cells, words in _OF.items() for word in words.split()}
