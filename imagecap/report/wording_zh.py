"""The report's words in Chinese: translations of its English texts, and the parts of the headlines."""

TEXTS: dict[str, str] = {
    "Image captions, judged": "图像描述评估报告",
    # facts
    "pictures": "图像",
    "references": "参考描述",
    "language": "语言",
    "languages": "语言",
    "decoding": "解码",
    "greedy": "贪心",
    "English": "英文",
    "Chinese": "中文",
    # scores
    "Scores, and what they are worth": "分数，以及分数说明了什么",
    "The bar is the 95% interval of the model’s number over other pictures of the same kind. The marks "
    "are captions that need no model, and what people reach, on the same pictures.": (
        "色带是模型分数的 95% 置信区间（换成同类的其他图像时）。其余标记是在同样的图像上：不需要模型的描"
        "述，以及人能达到的水平。"
    ),
    "model": "模型",
    "constant": "固定描述",
    "random": "随机描述",
    "neighbour": "最近邻",
    "shuffled": "打乱图像",
    "human": "人",
    "the best single training caption, said of every picture": "对每张图像都说同一句最好的训练描述",
    "any training caption": "任意一句训练描述",
    "the caption of the training picture that the model's encoder finds most alike": (
        "模型的编码器认为最相似的训练图像的描述"
    ),
    "the model's own captions, each scored on another picture: what is right without looking": (
        "把模型的描述放到别的图像上评分：不看图也能说对的部分"
    ),
    "one person's caption against the other people's": "一个人的描述与其他人的描述相比",
    "All numbers": "全部数字",
    "metric": "指标",
    "true": "完全正确",
    "not true": "不正确",
    "true, seen pairs": "完全正确（见过的组合）",
    "true, new pairs": "完全正确（没见过的组合）",
    "cut off": "被截断",
    "The constant caption": "固定描述",
    # the comparison
    "Against the model before": "与之前的模型相比",
    "before": "之前",
    "now": "现在",
    "difference": "差值",
    "better": "变好",
    "worse": "变差",
    "The pictures that changed most": "变化最大的图像",
    "The difference’s interval is a paired bootstrap over the same pictures; p is that of a sign test.": (
        "差值的区间来自对同样图像的配对自助法；p 来自符号检验。"
    ),
    # galleries
    "Best": "最好",
    "the captions closest to what people said": "与人的描述最接近",
    "Typical": "一般",
    "around the middle of all": "居于中间",
    "Worst": "最差",
    "look here first for what to mend": "要改进，先看这里",
    "Made up": "无中生有",
    "captions that name objects or colours which no reference names": "说到了任何参考描述都没有提到的物体或颜色",
    "Captions": "描述",
    "References": "参考描述",
    "in no reference": "参考描述中没有",
    "(empty)": "（空）",
    # slices and words
    "Parts of the pictures": "分组结果",
    "CIDEr’s idf is that of the whole set": "CIDEr 的 idf 取自全部图像",
    "column": "列",
    "value": "值",
    "reference length": "参考描述长度",
    "data set": "数据集",
    "What the captions name": "描述中提到的词",
    "Precision: what a caption names and some reference names too. Recall: what at least half of the "
    "references name and the caption too.": (
        "准确率：描述提到、且至少一条参考描述也提到的比例。召回率：至少一半参考描述提到、且描述也提到的比例。"
    ),
    "class": "类别",
    "against": "对照",
    "precision": "准确率",
    "recall": "召回率",
    "named": "提到",
    "wanted": "应提到",
    "objects": "物体",
    "colours": "颜色",
    "counts": "数量",
    "truth": "真实内容",
    # behaviour
    "How the captions behave": "描述的特点",
    "tokens per caption": "每条描述的词元数",
    "tokens per reference": "每条参考描述的词元数",
    "cut at the length limit": "因长度上限被截断",
    "within 20 % of the target length": "与目标长度相差不超过 20 %",
    "naming all tags": "提到全部标签",
    "without the words to avoid": "不含要避免的词",
    "empty": "空描述",
    "repeating themselves": "自我重复",
    "word for word from training": "与训练描述一字不差",
    "different captions": "不同的描述",
    "different tokens used": "用到的不同词元",
    "different tokens in references": "参考描述中的不同词元",
    "distinct-1": "distinct-1",
    "distinct-2": "distinct-2",
    "different captions among samples": "采样描述中不同的比例",
    "div-1 of samples": "采样的 div-1",
    "div-2 of samples": "采样的 div-2",
    "Learning curves": "学习曲线",
    # all captions
    "All captions": "全部描述",
    "evenly from best to worst": "从最好到最差均匀选取",
    "of": "/",
    "Find in captions, references, names": "在描述、参考描述、文件名中查找",
    "every language": "所有语言",
    "true or not": "不论正确与否",
    "best first": "最好的在前",
    "worst first": "最差的在前",
    "by name": "按名称",
    "longest first": "最长的在前",
    "Nothing fits.": "没有符合的。",
    "How this was measured": "评估方法",
    "BLEU, ROUGE-L and CIDEr-D as coco-caption computes them; tokens by": (
        "BLEU、ROUGE-L 和 CIDEr-D 与 coco-caption 的算法相同；分词方式"
    ),
    "CIDEr’s idf comes from the references of the evaluated pictures. Split:": (
        "CIDEr 的 idf 来自被评估图像的参考描述。数据划分："
    ),
    "version": "版本",
    "Everything is in this file; it asks nothing of the network.": "一切都在这个文件里，不需要网络。",
}
PHRASES: dict[str, str] = {
    "picture": "1 张图像",
    "pictures": "{count:,} 张图像",
    "unscored": "为 {pictures}生成了描述；没有参考描述，无法评分。",
    "language": "{language}：{headline}",
    "true": "{pictures}的描述中，{share:.0%} 完全正确{held_out}{shuffled}。",
    "held_out": "，训练中从未见过的颜色与物体组合上为 {share:.0%}",
    "shuffled": "；图像打乱后为 {share:.0%}",
    "cider": "{pictures}上 CIDEr 为 {cider:.3f}{interval}{floor}{human}。",
    "interval": "（95% 区间 {low:.3f}–{high:.3f}）",
    "floor": "，不看图的最好成绩为 {cider:.3f}",
    "human": "；一个人与其他人相比为 {cider:.3f}",
}
