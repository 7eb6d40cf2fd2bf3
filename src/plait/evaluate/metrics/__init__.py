"""Metrics: pure functions from predictions and references to numbers, each held against the program that defined it.

* `captions`: CIDEr-D, over the words that `treebank` cuts.
* `frechet`: the Fréchet distance of two sets of features, from moments that add up over batches and ranks.
* `ranking`: ranks, R@k, MRR and NDCG from a matrix of scores; multiple choice.
* `vqa`: the accuracy of VQAv2, OK-VQA and VizWiz, in the three variants that are in use.

Scores are fractions of 1, not percents; a CIDEr-D of 1 is printed as 100 in papers. `plait.evaluate.score` reads files.
"""
