"""The report's words in English. Headings that occur once stand in the template `report.html.j2`."""

BASELINE_MEANINGS: dict[str, str] = {
    "constant": "the best single training caption, said of every picture",
    "random": "any training caption",
    "neighbour": "the caption of the training picture that the model's encoder finds most alike",
    "shuffled": "the model's own captions, each scored on another picture: what is right without looking",
    "human": "one person's caption against the other people's",
}
# kind of gallery → heading and hint
GALLERY_TITLES: dict[str, tuple[str, str]] = {
    "best": ("Best", "the captions closest to what people said"),
    "typical": ("Typical", "around the middle of all"),
    "worst": ("Worst", "look here first for what to mend"),
    "made_up": ("Made up", "captions that name objects or colours which no reference names"),
    "all": ("Captions", ""),
}
# figure of `behaviour` in eval_results.json → label and number format
FIGURE_LABELS: dict[str, tuple[str, str]] = {
    "mean_length": ("tokens per caption", "{:.1f}"),
    "reference_mean_length": ("tokens per reference", "{:.1f}"),
    "truncated_share": ("cut at the length limit", "{:.1%}"),
    "length_kept_share": ("within 20 % of the target length", "{:.1%}"),
    "avoided_share": ("without the words to avoid", "{:.1%}"),
    "all_tags_share": ("naming all tags", "{:.1%}"),
    "empty_share": ("empty", "{:.1%}"),
    "repetitive_share": ("repeating themselves", "{:.1%}"),
    "copied_from_training_share": ("word for word from training", "{:.1%}"),
    "distinct_captions_share": ("different captions", "{:.1%}"),
    "vocabulary": ("different tokens used", "{:,.0f}"),
    "reference_vocabulary": ("different tokens in references", "{:,.0f}"),
    "distinct_1": ("distinct-1", "{:.3f}"),
    "distinct_2": ("distinct-2", "{:.3f}"),
    "sampled_distinct_share": ("different captions among samples", "{:.1%}"),
    "sampled_div_1": ("div-1 of samples", "{:.3f}"),
    "sampled_div_2": ("div-2 of samples", "{:.3f}"),
}
# parts of the headlines, which `wording.headlines` puts together
PHRASES: dict[str, str] = {
    "picture": "1 picture",
    "pictures": "{count:,} pictures",
    "unscored": "{pictures} captioned; without references there is nothing to score.",
    "language": "{language}: {headline}",
    "true": "{share:.0%} of the captions of {pictures} are true and complete{held_out}{shuffled}.",
    "held_out": ", {share:.0%} on colour–object pairs never seen in training",
    "shuffled": "; with shuffled pictures {share:.0%}",
    "cider": "CIDEr {cider:.3f}{interval} on {pictures}{floor}{human}.",
    "interval": " (95% between {low:.3f} and {high:.3f})",
    "floor": ", {standing} the best floor: {cider:.3f} by {kind}",
    "human": "; one person against the others reaches {cider:.3f}",
    "better": "above",
    "no sure difference": "not surely above",
    "worse": "no better than",
    "constant": "one caption for every picture",
    "random": "random captions",
    "neighbour": "captions of look-alike pictures",
}
