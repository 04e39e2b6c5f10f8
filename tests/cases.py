"""The named cases. A name says which fault the case hunts; see geometry.py for the builders.

Vector registers hold 4 to 16 elements and register tiles a few vectors, so widths and channel counts stand
at, one below and one above such sizes. Cache blocks are some hundred elements deep, so some sums and some
rows are longer.
"""

from __future__ import annotations

from geometry import Geometry, conv, free, transposed

WIDTHS = [
    conv("plain_3x3", (3, 5), (9, 8), 3, padding=1),
    conv("odd_width_17_lane_tail", (3, 4), (3, 17), 3, padding=1),
    conv("width_15_one_short_of_a_vector", (2, 4), (3, 15), 3, padding=1),
    conv("width_16_exactly_one_vector", (2, 4), (4, 16), 3, padding=1),
    conv("width_33_two_vectors_and_one", (2, 3), (2, 33), (1, 3), padding=(0, 1)),
    conv("width_7_shorter_than_a_vector", (5, 6), (7, 7), 3, padding=1),
    conv("output_one_column", (3, 4), (9, 3), 3),
    conv("output_one_row", (3, 4), (3, 9), 3),
    conv("output_one_pixel_full_window", (6, 10), (5, 4), (5, 4)),
    conv("one_pixel_image", (4, 9), 1, 1),
    conv("one_pixel_image_in_padding", (4, 9), 1, 3, padding=1),
    conv("long_row_several_segments", (2, 3), (2, 700), (1, 3), padding=(0, 1)),
    conv("tall_column_several_segments", (2, 3), (700, 2), (3, 1), padding=(1, 0)),
    conv("many_pixels_long_weight_sum", (2, 3), (45, 43), 3, padding=1, n=3),
]

CHANNELS = [
    conv("co_1_single_output_channel", (5, 1), (6, 7), 3, padding=1),
    conv("co_7_below_a_vector", (3, 7), (5, 6), 3, padding=1),
    conv("co_15_one_short_of_a_vector", (2, 15), (5, 6), 3),
    conv("co_16_exactly_one_vector", (2, 16), (5, 6), 3),
    conv("co_17_one_past_a_vector", (2, 17), (5, 6), 3),
    conv("co_33_one_past_two_vectors", (3, 33), (4, 5), 3, padding=1),
    conv("co_100_several_register_tiles", (3, 100), (4, 5), 3, padding=1),
    conv("co_300_several_cache_blocks", (2, 300), (3, 4), 3, padding=1),
    conv("ci_1_gray_image", (1, 6), (8, 9), 5, padding=2),
    conv("ci_3_first_layer_7x7_stride_2", (3, 8), (15, 17), 7, stride=2, padding=3),
    conv("ci_3_patches_14x14_several_k_blocks", (3, 40), (29, 45), 14, stride=14),
    conv("ci_33_one_past_two_vectors", (33, 4), (4, 5), 3, padding=1),
    conv("many_channels_several_k_blocks", (150, 5), (5, 6), 3, padding=1),
    conv("pointwise_1x1_many_channels", (600, 20), (3, 4), 1),
    conv("pointwise_1x1_wide_image", (5, 9), (13, 21), 1),
    conv("pointwise_1x1_planes_a_page_apart", (17, 140), 32, 1, n=1),
    *(
        # oneDNN's report 6035: weight gradient of a 1x1 layer with stride 2 and few channels.
        conv(f"pointwise_1x1_stride_2_channels_{c}", (c, c), (6, 7), 1, stride=2)
        for c in (2, 4, 6, 7, 12, 15)
    ),
]

STRIDES = [
    conv("stride_2_even_image", (3, 5), (8, 10), 3, stride=2, padding=1),
    conv("stride_2_odd_kernel_leaves_last_pixel_out", (3, 5), (10, 12), 3, stride=2),
    conv("stride_3_kernel_3_windows_touch", (3, 4), (9, 12), 3, stride=3),
    conv("stride_larger_than_kernel_leaves_untouched_rows", (3, 4), (13, 12), 2, stride=3),
    conv("stride_larger_than_image", (3, 4), (4, 5), 2, stride=9),
    conv("stride_h_1_stride_w_3_swapped_axes", (2, 3), (7, 13), 3, stride=(1, 3), padding=1),
    conv("stride_h_3_stride_w_1_swapped_axes", (2, 3), (13, 7), 3, stride=(3, 1), padding=1),
    conv("stride_4_kernel_11_uneven_residues", (3, 5), (27, 23), 11, stride=4, padding=2),
    conv("stride_2_pointwise_residues_without_taps", (3, 5), (8, 9), 1, stride=2, padding=1),
    conv("residue_without_taps", (3, 4), (13, 14), 2, stride=4, padding=1, dilation=2),
    conv("stride_16_patches_16x16", (3, 7), (32, 48), 16, stride=16, n=1),
    conv("stride_5_longer_than_a_tile", (2, 3), (6, 83), (2, 7), stride=(1, 5), padding=(0, 3)),
]

DILATIONS = [
    conv("dilation_2", (3, 4), (9, 10), 3, padding=2, dilation=2),
    conv("dilation_and_stride_not_coprime", (3, 4), (15, 14), 3, stride=4, padding=2, dilation=2),
    conv(
        "dilation_multiple_of_stride_one_residue_only", (3, 4), (13, 12), 3, stride=2, padding=3, dilation=4
    ),
    conv("dilation_3_stride_2_coprime", (3, 4), (12, 13), 3, stride=2, padding=3, dilation=3),
    conv("dilation_h_differs_from_dilation_w", (2, 3), (9, 14), 3, padding=(1, 4), dilation=(1, 4)),
    conv("dilation_8_outer_taps_hit_only_padding", (3, 4), (5, 6), 3, padding=8, dilation=8),
    conv("dilated_7x7_larger_than_image", (2, 3), (7, 8), 7, padding=6, dilation=2),
]

PADDINGS = [
    conv("padding_larger_than_kernel", (3, 4), (4, 5), 2, padding=5),
    conv("padding_larger_than_kernel_stride_3", (3, 4), (4, 5), 2, stride=3, padding=7),
    conv("padding_h_only", (3, 4), (6, 7), 3, padding=(1, 0)),
    conv("padding_w_only", (3, 4), (6, 7), 3, padding=(0, 1)),
    conv("kernel_larger_than_image_with_padding", (3, 4), (3, 2), 7, padding=3),
    conv("even_kernel_4x4_padding_1", (3, 4), (7, 8), 4, padding=1),
    free("negative_padding_crops_the_image", (3, 4), (8, 9), (4, 3), (3, 3), padding=(-1, -2)),
    free("windows_wholly_outside_on_both_sides", (3, 4), (3, 2), (14, 13), (2, 2), padding=(6, 5)),
]

KERNELS = [
    conv("wide_1xk", (3, 4), (5, 19), (1, 7), padding=(0, 3)),
    conv("tall_kx1", (3, 4), (19, 5), (7, 1), padding=(3, 0)),
    conv("kernel_2x5_swapped_axes", (3, 4), (8, 9), (2, 5)),
    conv("huge_kernel_1x1024_stride_256", (2, 3), (1, 3100), (1, 1024), stride=(1, 256), n=1),
    conv("asymmetric_everything", (5, 7), (14, 19), (4, 3), (3, 2), (2, 1), (2, 3), groups=2, n=3),
]

GROUPS = [
    conv("groups_2", (3, 4), (6, 7), 3, padding=1, groups=2),
    conv("groups_3_uneven", (2, 5), (6, 7), 3, stride=2, padding=1, groups=3),
    conv("groups_17_more_than_a_vector", (2, 1), (4, 5), 3, padding=1, groups=17),
    conv("groups_4_of_8_channels", (8, 8), (5, 6), 3, padding=1, groups=4),
    conv("groups_of_4_share_vectors_last_one_short", (4, 4), (9, 11), 3, padding=1, groups=7),
    conv("groups_of_3_to_5_leave_lanes", (3, 5), (8, 9), 3, stride=2, padding=1, groups=8),
    conv("groups_of_17_one_past_a_vector", (17, 17), (9, 12), 3, stride=2, padding=1, groups=3),
    conv("groups_of_4_kernel_5x7_several_runs", (4, 4), (9, 23), (5, 7), padding=(2, 3), groups=5),
    conv("groups_of_20_kernel_3x4_stride_2_runs", (20, 20), (8, 35), (3, 4), 2, (1, 5), groups=2, n=1),
    conv("groups_of_32_two_vectors_dilation_2", (32, 32), (9, 10), 3, padding=2, dilation=2, groups=2),
    conv("grouped_1x1_shuffle", (5, 7), (4, 6), 1, groups=3),
    conv("depthwise", (1, 1), (7, 9), 3, padding=1, groups=19),
    conv("depthwise_stride_2", (1, 1), (9, 8), 3, stride=2, padding=1, groups=17),
    conv("depthwise_dilation_2_kernel_5", (1, 1), (11, 12), 5, padding=4, dilation=2, groups=6),
    conv("depthwise_5x5_narrow", (1, 1), (6, 7), 5, padding=2, groups=5),
    conv("depthwise_7x7_several_vectors", (1, 1), (9, 37), 7, padding=3, groups=3),
    conv("depthwise_7x7_stride_2_narrow", (1, 1), (13, 14), 7, stride=2, padding=3, groups=4),
    conv("depthwise_5x5_stride_2_no_padding", (1, 1), (10, 39), 5, stride=2, groups=3),
    conv("depthwise_3x3_stride_2_many_vectors", (1, 1), (5, 150), 3, stride=2, padding=1, groups=2),
    conv("depthwise_3x3_padding_past_the_kernel", (1, 1), (5, 9), 3, padding=4, groups=3),
    conv("depthwise_9x9_stride_2", (1, 1), (12, 35), 9, stride=2, padding=4, groups=2),
    conv("depthwise_multiplier_2", (1, 2), (6, 7), 3, padding=1, groups=9),
    conv("depthwise_31x31", (1, 1), (20, 22), 31, padding=15, groups=2, n=1),
    # A vector of channels, and what is left over; in channels_last they are read where they lie.
    conv("depthwise_7_channels_image_narrower_than_the_kernel", (1, 1), (6, 3), 5, padding=2, groups=7),
    conv("depthwise_16_channels_padding_past_the_kernel", (1, 1), (7, 10), 3, padding=5, groups=16),
    conv("depthwise_17_channels_stride_3", (1, 1), (14, 19), 5, stride=3, padding=2, groups=17),
    conv("depthwise_33_channels_dilation_3", (1, 1), (15, 26), 3, padding=3, dilation=3, groups=33, n=3),
    conv("depthwise_33_channels_dilation_2_stride_3", (1, 1), (16, 13), 4, 3, 2, 2, groups=33),
    conv("depthwise_20_channels_stride_past_the_kernel", (1, 1), (9, 11), 2, stride=4, groups=20),
    conv("depthwise_18_channels_9x11", (1, 1), (13, 40), (9, 11), padding=(4, 5), groups=18, n=1),
    conv("depthwise_32_channels_tall_kernel_several_k_blocks", (1, 1), (700, 2), (400, 1), groups=32, n=1),
    conv("depthwise_1xk", (1, 1), (4, 21), (1, 11), padding=(0, 5), groups=5),
    # Kernel columns in runs of several, tiles of many columns.
    conv("depthwise_33_channels_one_row", (1, 1), (1, 75), (1, 23), padding=(0, 11), groups=33),
    conv("depthwise_20_channels_runs_stride_2", (1, 1), (2, 45), (1, 19), (1, 2), (0, 9), groups=20),
    conv("depthwise_33_channels_strips_7x5", (1, 1), (12, 11), (7, 5), padding=(3, 2), groups=33),
    conv("depthwise_34_channels_strips_5x3_stride_2", (1, 1), (14, 19), (5, 3), 2, (2, 1), groups=34),
    conv("depthwise_32_channels_strips_stride_2_dilation_2", (1, 1), (15, 17), 4, 2, 3, 2, groups=32),
    conv("depthwise_16_channels_strips_tall_kernel", (1, 1), (23, 6), (20, 2), padding=(9, 1), groups=16),
    conv("depthwise_640_channels_strips_cut_into_columns", (1, 1), (2, 70), 3, padding=1, groups=640, n=1),
    conv("depthwise_17_channels_runs_stride_3_dilation_3", (1, 1), (2, 61), (1, 9), 3, (0, 13), 3, groups=17),
]

TRANSPOSED = [
    transposed("upsample_2x2_stride_2", (5, 6), (4, 5), 2, stride=2),
    transposed("output_padding_dilation_4x4_to_7x7", (2, 3), 4, 3, padding=1, output_padding=1, dilation=2),
    transposed("output_padding_row_without_terms", (3, 4), (4, 5), 1, stride=3, output_padding=2),
    transposed("kernel_3_stride_2_output_padding_1", (4, 6), (5, 6), 3, 2, 1, 1),
    transposed("kernel_4_stride_2_padding_1", (3, 6), (4, 5), 4, 2, 1),
    transposed("kernel_4_on_one_pixel", (5, 8), 1, 4),
    transposed("kernel_9_stride_3", (1, 5), (5, 6), 9, 3, 4, 2),
    transposed("transposed_groups_kernel_6_stride_3", (1, 1), (4, 9), (1, 6), (1, 3), groups=12),
    transposed("vocoder_kernel_1024_stride_256", (1, 6), (1, 5), (1, 1024), (1, 256), n=1),
]

FREE = [
    free("output_truncated", (3, 4), (9, 8), (4, 3), (3, 3), padding=1),
    free("output_past_the_image_is_zero", (3, 4), (5, 6), (9, 11), (3, 3), padding=1),
    free("image_rows_past_the_last_window_are_zero", (3, 4), (14, 15), (4, 5), (3, 3), stride=2),
    free("kernel_overhangs_the_image", (3, 4), (4, 5), (3, 4), (7, 9), padding=1, dilation=(2, 1)),
    free("strided_free_sizes", (2, 3), (8, 21), (7, 6), (3, 2), (3, 2), (2, 5), (2, 3)),
]

# Kernel elements that meet padding alone, in all results.
CROPPED = [
    conv("cropped_to_one_element", (5, 6), (8, 9), 3, padding=(9, 10), dilation=(9, 10)),
    conv("cropped_at_both_ends", (3, 4), (4, 20), (5, 3), padding=(6, 1), dilation=(3, 1)),
    free("cropped_at_one_end", (3, 20), (6, 9), (8, 9), (4, 2), dilation=(3, 1), groups=2),
    conv("cropped_to_1x1_many_channels", (40, 33), (9, 8), 3, padding=12, dilation=12),
    # Bands of columns, each with the kernel columns that meet the image for it.
    conv("bands_of_columns", (5, 20), (11, 25), 3, padding=(1, 9), dilation=(1, 9)),
    conv(
        "bands_of_columns_stride_2",
        (18, 4),
        (7, 40),
        (1, 3),
        stride=(1, 2),
        padding=(0, 11),
        dilation=(1, 11),
    ),
    conv("bands_of_columns_groups_2", (3, 17), (9, 33), 3, padding=24, dilation=24, groups=2, n=1),
]

# Cache blocks: more channels, pixels or kernel elements than one holds, and what shifts their borders.
BLOCKS = [
    conv("segments_and_k_blocks_stride_2", (40, 5), (3, 1301), 3, stride=2, padding=1, n=1),
    conv("segments_dilation_3_groups_2", (3, 5), (3, 1101), (3, 5), 1, (1, 5), (1, 3), groups=2, n=1),
    # Small weight gradients of many pixels, which have partial sums of their own.
    conv("partial_sums_pointwise", (21, 18), (31, 37), 1, n=2),
    conv("partial_sums_stride_2", (3, 17), (70, 41), 3, stride=2, padding=1, n=3),
    conv("row_chunks_stride_2_over_samples", (8, 6), (90, 33), 3, stride=2, padding=1, n=3),
    conv("co_900_several_panel_chunks", (3, 900), (3, 4), 3, padding=1, n=1),
    conv("ci_900_several_panel_chunks", (900, 3), (3, 4), 3, padding=1, n=1),
    conv("huge_kernel_48x50_stride_2", (1, 2), (51, 54), (48, 50), stride=2, n=1),
    conv("huge_kernel_1x600_dilation_2_overlaps_padding", (2, 3), (2, 800), (1, 600), 1, (0, 300), 2, n=1),
]

# Winograd's tiles. The 3x3 kernels of stride 1 have enough channels and pixels that the plan prefers them on
# every ISA; the others (other tiles, residues of stride or dilation, blocks) are for tests that ask for them.
WINOGRAD = [
    conv("tiles_4x4_fit_exactly", (32, 32), (8, 12), 3, padding=1),
    conv("tiles_partial_at_both_ends", (24, 40), (13, 15), 3),
    conv("tiles_padding_2_begin_in_padding", (32, 17), (12, 14), 3, padding=2),
    conv("tiles_groups_2_one_past_vectors", (33, 33), (10, 13), 3, padding=1, groups=2),
    conv("tiles_two_channel_blocks", (130, 40), (8, 9), 3, padding=1, n=1),
    conv("tiles_several_panels", (32, 200), (8, 10), 3, padding=1, n=1),
    conv("tiles_long_row_several_chunks", (16, 16), (4, 530), 3, padding=1, n=1),
    conv("tiles_several_chunks", (16, 16), (50, 46), 3, padding=1, n=1),
    free("tiles_output_truncated", (32, 32), (14, 15), (9, 11), (3, 3), padding=1),
    free("tiles_output_past_the_image", (32, 32), (9, 10), (14, 17), (3, 3), padding=1),
    free("tiles_negative_padding", (32, 32), (15, 16), (9, 9), (3, 3), padding=(-1, -2)),
    free("tiles_wholly_outside", (32, 32), (8, 8), (20, 22), (3, 3), padding=(6, 7)),
    conv("tiles_2x2_kernel", (32, 33), (13, 15), 2, n=1),
    conv("tiles_4x4_kernel", (33, 16), (10, 11), 4, padding=2, n=1),
    conv("tiles_5x5_kernel", (16, 16), (9, 11), 5, padding=2, groups=2),
    conv("tiles_stride_2_kernel_4", (20, 33), (22, 24), 4, stride=2, padding=1, n=1),
    conv("tiles_stride_2_kernel_7x8", (17, 16), (15, 18), (7, 8), stride=2, padding=(3, 0), n=1),
    conv("tiles_stride_3_2_kernel_5x4", (16, 16), (22, 16), (5, 4), stride=(3, 2), padding=1),
    conv("tiles_stride_4_kernel_15", (16, 16), (23, 20), 15, stride=4, padding=5, n=1),
    conv("tiles_dilation_2_3", (16, 32), (15, 13), 3, padding=(2, 3), dilation=(2, 3)),
    conv("tiles_one_row_1x3_dilation_2", (33, 32), (5, 31), (1, 3), padding=(0, 2), dilation=(1, 2)),
    conv("tiles_one_column_7x1", (32, 48), (21, 5), (7, 1), padding=(3, 0)),
    conv("tiles_blocks_6x9", (16, 16), (11, 13), (6, 9), padding=(2, 4), n=1),
    conv("tiles_blocks_13x2_stride_2_1", (16, 16), (25, 9), (13, 2), stride=(2, 1), padding=(6, 0), n=1),
    transposed("tiles_transposed_blocks_14_stride_2", (16, 16), (5, 6), 14, 2, 6, n=1),
    transposed("tiles_transposed_kernel_4_stride_2", (16, 32), (9, 10), 4, 2, 1),
    transposed("tiles_transposed_kernel_5_stride_3", (16, 16), (7, 8), 5, 3, 2, 1),
    free("tiles_stride_2_negative_padding", (16, 32), (24, 23), (8, 9), (4, 3), 2, padding=(-3, -1)),
    free("tiles_stride_2_past_the_image", (16, 32), (10, 12), (9, 8), (4, 4), 2, padding=(1, 2)),
]

EMPTY = [
    conv("batch_0", (3, 4), (5, 6), 3, n=0),
    conv("batch_1", (3, 4), (5, 6), 3, padding=1, n=1),
    conv("batch_5_uneven_over_threads", (2, 3), (5, 6), 3, padding=1, n=5),
    conv("ci_0_sum_without_terms", (0, 4), (5, 6), 3, padding=1),
    conv("ci_0_pointwise", (0, 4), (5, 6), 1),
    conv("ci_0_groups_3", (0, 4), (5, 6), 3, padding=1, groups=3),
    conv("co_0_no_output_channel", (3, 0), (5, 6), 3, padding=1),
    free("output_0_wide", (3, 4), (5, 6), (3, 0), (3, 3)),
    free("image_0_high", (3, 4), (0, 6), (2, 6), (3, 3), padding=1),
    free("kernel_0_wide", (3, 4), (5, 6), (3, 6), (3, 0)),
]

CASES: list[Geometry] = [
    *WIDTHS,
    *CHANNELS,
    *STRIDES,
    *DILATIONS,
    *PADDINGS,
    *KERNELS,
    *GROUPS,
    *TRANSPOSED,
    *FREE,
    *CROPPED,
    *BLOCKS,
    *WINOGRAD,
    *EMPTY,
]

BY_NAME: dict[str, Geometry] = {case.name: case for case in CASES}
assert len(BY_NAME) == len(CASES), "two cases have the same name"
