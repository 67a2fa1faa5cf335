"""What of a stranger's config reaches a library: scalar options of the architecture, by an allowlist.

A config can name files, addresses, code, kernels, backbones to be fetched and ways to load that forgive; none of that
is passed on. What only says how weights would be found or read is left out, because we find and read them ourselves;
any other unknown option is refused, because a model built without it may be another.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from dataclasses import fields, is_dataclass
from typing import Any

from workspace.errors import ModelError
from workspace.model_config import ModelConfig
from workspace.status import Status
from workspace.text import printable

MAX_VALUES = 1_000  # numbers in one option
MAX_NUMBER = 2**31  # absolute value of a number in an option

_WORD = re.compile(r"[A-Za-z0-9_.+-]{0,64}")
"""Texts that are passed on: names of activations, norms and the like; no path, no address, no repository."""

TIMM_OPTIONS = frozenset({
    "aa_layer", "aa_stem_only", "abs_win_pos_embed", "act_layer", "always_partition", "attn_act_layer",
    "attn_block_token_only", "attn_drop_rate", "attn_groups", "attn_head_dim_reduction", "attn_layer", "attn_mlp",
    "attn_mlp_ratio", "attn_only_layer_scale", "attn_pool_mlp_ratio", "attn_pool_num_heads", "attn_ratio",
    "attn_stage", "attn_type", "attn_types", "attn_upsample", "aux_logits", "avg_down", "base_dim", "base_dims",
    "base_width", "bias", "bidirectional", "block_reduce_first", "bn_eps", "bn_momentum", "bn_size", "bn_tf",
    "bottle_ratio", "bottleneck_width_ratio", "cardinality", "ch_div", "channel_attention", "channel_attn_v2",
    "channel_multiplier", "channels", "class_token", "cls_attn_layers", "cls_ratio", "conv_bias", "conv_init",
    "conv_layer", "conv_mlp", "conv_ratio", "cpe_act", "crop_scale", "crpe_window", "d2_scales", "deepen_factor",
    "depth", "depth_list", "depth_mult", "depth_multiplier", "depth_token_only", "depths", "dim", "dim_mul", "dims",
    "distilled", "down_kernel_size", "down_pad", "down_patch_size", "down_stride", "downsample",
    "downsample_expand_ratios", "downsample_kernel_size", "downsample_padding", "downsample_ratio", "downsamples",
    "drop", "drop_block_rate", "drop_block_size", "drop_path_rate", "drop_rate", "dropout", "dw_act_layer",
    "dynamic_img_pad", "dynamic_img_size", "embed_dim", "embed_dims", "embed_norm", "encoder_pool", "eta",
    "expand_groups", "expand_ratio", "expansion_ratio", "extra_norm_period", "extra_norm_stage", "fc_act_layer",
    "fc_norm", "feature_dim", "feature_location", "ffn_ratio", "final_chs", "final_norm", "first_stride",
    "fix_init", "fix_stem", "focal_levels", "focal_windows", "fused_conv", "fused_downsample", "global_att_blocks",
    "global_attn_indexes", "global_block_counts", "global_pool", "global_pos_size", "group", "groups",
    "growth_rate", "growth_rates", "head_bias", "head_conv", "head_dim", "head_hidden_size", "head_init_scale",
    "head_mul", "head_norm", "head_norm_first", "head_widths", "heads", "hidden_size", "hidden_sizes", "img_scale",
    "img_size", "in_channels", "in_chans", "in_features", "inc_sec", "inference_mode", "init_channels",
    "init_values", "initial_chs", "inner_dim", "inplanes", "input_3x3", "intermediate_size", "is_downsample_block",
    "k_r", "k_sec", "kernel_size", "kernel_sizes", "kernels", "key_dim", "layer_scale", "layer_scale_init_value",
    "layer_scale_init_values", "layers", "layerscale_value", "legacy", "levels", "linear", "lkc_use_act",
    "local_conv_size", "local_mbconv_norm", "local_up_to_layer", "locality_strength", "ls_init_value",
    "mask_unit_attn", "mask_unit_size", "mbconv_expand_ratio", "memory_efficient", "merge_size", "mix_block_ratio",
    "mlp_act", "mlp_bias", "mlp_ratio", "mlp_ratio_token_only", "mlp_ratios", "msfa_indices",
    "msfa_output_resolution", "multi_conv", "n_div", "named_blocks", "neck_chans", "nlhb", "no_embed_class",
    "norm_eps", "norm_layer", "norm_layer_cl", "norm_layers", "normalize_modulator", "num_blocks",
    "num_blocks_list", "num_features", "num_heads", "num_heads_inner", "num_heads_outer", "num_init_features",
    "num_kv_heads", "num_levels", "num_reg_tokens", "num_rnn_layers", "num_vit", "outlook_attention", "output_norm",
    "output_stride", "pad_type", "parallel_depth", "partial_dim", "patch_drop_rate", "patch_kernel", "patch_norm",
    "patch_padding", "patch_size", "patch_sizes", "patch_stride", "pool_include_prefix", "pool_size", "pool_type",
    "pooling_kernel_size", "pooling_scale", "pos_drop_rate", "pos_embed", "pos_embed_grid_size", "pos_embs",
    "position_embedding_size", "pre_norm", "preact", "pretrained_window_sizes", "proj_bias", "proj_drop_rate",
    "q_pool", "q_stride", "qk_dim", "qk_norm", "qkv_bias", "qkv_fused", "reduction", "ref_feat_shape", "reg_tokens",
    "rel_pos_dim", "rel_pos_type", "reparam", "replace_stem_pool", "repmixer_kernel_size", "res_scale_init_values",
    "rope_grid_indexing", "rope_grid_offset", "rope_mrope_section", "rope_rotate_half", "rope_temperature",
    "rope_theta", "rope_type", "round_limit", "scale", "scale_attn_inner", "scale_attn_norm", "scale_mlp",
    "scale_mlp_norm", "se_downsamples", "se_from_exp", "se_layer", "se_ratio", "sep_pos_embed", "sequential_attn",
    "serial_depths", "shared_rel_pos", "shortcut_root", "small", "small_kernels", "spatial_conv", "sr_ratios",
    "ssd_expand", "stages", "standardize", "state_dim", "stem_bias", "stem_chs", "stem_expand_ratio",
    "stem_hidden_dim", "stem_kernel_size", "stem_mid_norm", "stem_norm", "stem_size", "stem_stride", "stem_type",
    "stem_use_scale_branch", "stem_width", "strict_img_size", "stride", "strides", "swiglu_align_to", "swiglu_mlp",
    "token_mixers", "tokens_norm", "transformer_depths", "transformer_drop_path", "transition_compression_ratio",
    "use_abs_pos", "use_abs_pos_emb", "use_aux_head", "use_clipped_linears", "use_conv", "use_expand_proj",
    "use_fc_norm", "use_grn", "use_lab", "use_layer_scale", "use_mix_token", "use_mlp_head", "use_msfa",
    "use_overlap_down", "use_pos_emb", "use_pos_embed", "use_post_norm", "use_post_norm_in_modulation",
    "use_post_transformer_norm", "use_pre_transformer_norm", "use_rel_pos", "use_rel_pos_bias", "use_rope",
    "use_rot_pos_emb", "use_shared_rel_pos_bias", "v2", "version", "vit_stem", "weight_init", "widen_factor",
    "width", "width_factor", "width_list", "width_mult", "widths", "window_ratio", "window_size", "window_sizes",
    "window_spec", "with_fc", "zero_init_last",
})  # fmt: skip
"""Options of timm's constructors that say what is built, in numbers and words. Of all parameters of timm's classifiers
those are left out that take classes, functions or objects, a device or a dtype, and those that return features."""

_LOADING = re.compile(r"(?:pretrained|checkpoint|hf_hub|custom_load|cache|load)|^(?:file|url|state_dict|source)$")
_RUNNING = frozenset(
    {"num_classes", "scriptable", "exportable", "no_jit", "device", "dtype", "features_only", "out_indices",
     "feature_cls", "feature_cfg", "use_checkpoint"}
)  # fmt: skip
"""Arguments beside `_LOADING` that are left out: they say how a model is run, or what of it is returned. The number of
classes is passed by us."""

_NOT_PASSED = re.compile(
    r"backbone|_implementation|kernel_config|quantiz|auto_map|name_or_path|fusion_config|pruned_heads|adapter|dtype"
    r"|^(?:architectures|id2label|label2id|model_type|num_labels|output_attentions|output_hidden_states|problem_type"
    r"|return_dict|torchscript|transformers_version|transformers_weights|trust_remote_code|(?:\w+_)?(?:file|url))$|^_"
)
"""Settings of transformers' configs that are never passed on, at any level, though a class may know them."""


def timm_options(config: ModelConfig) -> dict[str, Any]:
    """Return the arguments of a timm config that are passed to timm's constructor; null ones are left out, as by timm.

    Raises `ModelError` (malformed_config) for an argument that is no architecture option, or no number, word or list of
    them: without it another model would be built.
    """
    options = {}
    for name, value in config.model_args.items():
        if value is None or name in _RUNNING:
            continue
        if name not in TIMM_OPTIONS:
            if _LOADING.search(name):
                continue
            raise ModelError(Status.MALFORMED_CONFIG, f"its model_args hold '{printable(name)}', which is no option")
        if not is_scalar(value):
            raise ModelError(Status.MALFORMED_CONFIG, f"'{name}' in its model_args is no number, word or list of them")
        options[name] = value
    return options


def transformers_options(config: ModelConfig, known: Mapping[str, Collection[str]]) -> dict[str, Any]:
    """Return the settings of a transformers config that are passed to its class, labels not among them.

    Args:
        config: the config.
        known: what the installed class knows: its own settings under "", those of each part under the part's name
            (``vision_config``).

    Raises `ModelError` (malformed_config) for a known setting that is no number, word or list of them.
    """
    options = _known(config.raw, set(known[""]) - set(known), "")
    for part in set(known) & set(config.raw):
        inner = config.raw[part]
        if isinstance(inner, Mapping):
            options[part] = _known(inner, known[part], f"{part}.")
        elif inner is not None:
            raise ModelError(Status.MALFORMED_CONFIG, f"its {part} is no object")
    return options


def known_settings(config_class: Any) -> dict[str, set[str]]:
    """Return the names of a config class's settings, and under the names of its parts those of their classes."""
    parts = {"": config_class, **getattr(config_class, "sub_configs", {})}
    known = {}
    for part, cls in parts.items():
        if is_dataclass(cls):
            known[part] = {field.name for field in fields(cls)} | set(getattr(cls, "attribute_map", {}))
    return known


def _known(settings: Mapping[str, Any], names: Collection[str], where: str) -> dict[str, Any]:
    kept = {}
    for name in sorted(set(settings) & set(names)):
        value = settings[name]
        if _NOT_PASSED.search(name):
            continue
        if not is_scalar(_listed(value)):
            raise ModelError(Status.MALFORMED_CONFIG, f"its {where}{name} is no number, word or list of them")
        kept[name] = value
    return kept


def _listed(value: Any) -> Any:
    """Return what an object of words holds as a list: kinds of attention with the settings of each, say."""
    if isinstance(value, Mapping) and all(map(_WORD.fullmatch, value)):
        return [_listed(inner) for inner in value.values()]
    return value


def is_scalar(value: Any, depth: int = 3) -> bool:
    """Return whether ``value`` is a number of sane size, a word, true, false, null, or a few of them in a list."""
    if isinstance(value, list):
        return depth > 0 and len(value) <= MAX_VALUES and all(is_scalar(v, depth - 1) for v in value)
    if isinstance(value, str):
        return _WORD.fullmatch(value) is not None
    if value is None or isinstance(value, bool):
        return True
    return isinstance(value, (int, float)) and not abs(value) > MAX_NUMBER
