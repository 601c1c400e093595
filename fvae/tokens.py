"""The special tokens of text and their numbers, the same for tokenizers, networks and decoders."""

PAD, BOS, EOS, UNK = range(4)  # padding, beginning and end of a sentence, unknown
SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>")  # by number
