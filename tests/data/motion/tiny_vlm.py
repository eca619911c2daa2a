"""A vision-language model of a few thousand weights with its real processor, tokenizer and chat template; nothing is downloaded."""

import itertools
from pathlib import Path

TEMPLATE = (
    "{% for message in messages %}{{ message['role'] }}: {% for part in message['content'] %}"
    "{% if part['type'] == 'image' %}<image>{% else %}{{ part['text'] }}{% endif %}{% endfor %}\n{% endfor %}"
    "{% if add_generation_prompt %}<answer>{% endif %}"
)
SIDE, PATCH, WIDTH = 28, 14, 128


def save_vlm(folder: Path, answer: str | None, *, template: bool = True) -> None:
    """Save a model that says `answer` when it generates greedily, or whatever its random weights say when that is None.

    The answer is cut into pieces that are tokens of their own and never come twice. The one layer of the language model adds nothing to a
    token's embedding, and the output layer knows of each piece which comes after it.
    """
    import torch
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import (
        CLIPImageProcessor,
        CLIPVisionConfig,
        LlamaConfig,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
        PreTrainedTokenizerFast,
    )

    from surg.data.tags.vlm import prompt

    words = Tokenizer(models.BPE())
    words.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    words.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=600,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<pad>", "</s>", "<image>", "<answer>"],
        show_progress=False,
    )
    words.train_from_iterator([prompt()], trainer)
    pieces = _pieces(answer or "")
    words.add_tokens([AddedToken(piece, normalized=False) for piece in pieces])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words, pad_token="<pad>", eos_token="</s>", additional_special_tokens=["<image>", "<answer>"]
    )
    text = LlamaConfig(
        vocab_size=len(tokenizer), hidden_size=WIDTH, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        num_key_value_heads=2, max_position_embeddings=4096, pad_token_id=0, eos_token_id=1, bos_token_id=None,
    )  # fmt: skip
    vision = CLIPVisionConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=SIDE, patch_size=PATCH
    )
    torch.manual_seed(0)
    config = LlavaConfig(vision_config=vision, text_config=text, image_token_index=tokenizer.convert_tokens_to_ids("<image>"))
    model = LlavaForConditionalGeneration(config)
    model.generation_config.eos_token_id, model.generation_config.pad_token_id = 1, 0
    if answer is not None:
        _teach(model, [tokenizer.convert_tokens_to_ids(token) for token in ("<answer>", *pieces, "</s>")])
    model.save_pretrained(folder)
    LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": SIDE}, crop_size={"height": SIDE, "width": SIDE}),
        tokenizer=tokenizer,
        patch_size=PATCH,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=TEMPLATE if template else None,
    ).save_pretrained(folder)


def _pieces(text: str) -> list[str]:
    """`text` in the shortest pieces of at least six letters that never repeat."""
    pieces: list[str] = []
    start = 0
    while start < len(text):
        end = start + 6
        while text[start:end] in pieces and end < len(text):
            end += 1
        pieces.append(text[start:end])
        start = end
    assert len(set(pieces)) == len(pieces), "the answer's last words repeat"
    return pieces


def _teach(model: object, order: list[int]) -> None:
    """Make each token of `order` call for the next one."""
    import torch

    weights = dict(model.named_parameters())  # type: ignore[attr-defined]
    embedding = next(value for name, value in weights.items() if name.endswith("embed_tokens.weight"))
    output = next(value for name, value in weights.items() if name.endswith("lm_head.weight"))
    with torch.no_grad():
        for name, value in weights.items():
            if "language_model" in name and name.endswith(("o_proj.weight", "down_proj.weight")):
                value.zero_()
        embedding.normal_()
        output.zero_()
        for token, following in itertools.pairwise(order):
            output[following] = embedding[token] / embedding[token].norm()
