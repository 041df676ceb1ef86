"""The text itself: what the server's parser takes for a config, character by character."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from .case import Case, onnx, table

_IO = 'input { name: "x" data_type: TYPE_FP32 dims: 4 }\noutput { name: "y" data_type: TYPE_FP32 dims: 4 }\n'


def cases() -> Iterator[Case]:
    """All cases."""
    yield from table("ours/text_fields", f"{_IO}@", _FIELDS)
    yield from table("ours/text_separators", f"{_IO}@", _SEPARATORS)
    yield from table("ours/text_integers", f"{_IO}max_batch_size: @", _INTEGERS)
    yield from table("ours/text_unsigned", f"{_IO}version_policy {{ latest {{ num_versions: @ }} }}", _UNSIGNED)
    yield from table(
        "ours/text_floats",
        f"{_IO}max_batch_size: 1 sequence_batching {{ direct {{ minimum_slot_utilization: @ }} }}",
        _FLOATS,
    )
    yield from table("ours/text_bools", f"{_IO}response_cache {{ enable: @ }}", _BOOLS)
    yield from table("ours/text_enums", f"{_IO}instance_group {{ kind: @ }}", _ENUMS)
    yield from table("ours/text_strings", f'{_IO}parameters {{ key: "k" value {{ string_value: @ }} }}', _STRINGS)
    yield from table("ours/text_names", f"{_IO}name: @", _NAMES)
    yield from table("ours/text_comments", f"{_IO}@", _COMMENTS)
    yield from table("ours/text_extensions", f"{_IO}@", _EXTENSIONS)
    for name, text in _BYTES.items():
        tree = {"m/config.pbtxt": b'backend: "onnxruntime"\n' + _IO.encode() + text, "m/1/model.onnx": b"x"}
        yield Case(f"ours/text_bytes/{name}", tree)
    for name, text in _WHOLE.items():
        yield Case(f"ours/text_whole/{name}", {"m/config.pbtxt": text, "m/1/model.onnx": b"x"})
    for depth in (10, 99, 100, 101, 1000):
        yield Case(f"ours/text_deep/unknown_{depth}", onnx(f"{_IO}unknown {'{ a ' * depth}{'}' * depth}"))
        yield Case(f"ours/text_deep/list_{depth}", onnx(f"{_IO}dims: {'[' * depth}{']' * depth}"))
    yield Case("ours/text_deep/long_string", onnx(f'{_IO}runtime: "{"a" * 100_000}"'))
    yield Case(
        "ours/text_deep/many_fields",
        onnx(_IO + 'model_operations { op_library_filename: "a" }\n'.replace("\n", " ") + "\n" * 50_000),
    )
    yield Case(
        "ours/text_deep/many_parameters",
        onnx(_IO + "".join(f'parameters {{ key: "{i}" value {{ string_value: "v" }} }}\n' for i in range(2000))),
    )


_FIELDS = """
    unknown                 | colour: 1
    unknown_message         | colour { red: 1 }
    unknown_in_message      | input { colour: 1 }
    near_name               | max_batchsize: 4
    camel_case              | maxBatchSize: 4
    upper_case              | MAX_BATCH_SIZE: 4
    field_number            | 4: 4
    scalar_twice            | max_batch_size: 1 max_batch_size: 1
    string_twice            | name: "m" name: "m"
    message_twice           | optimization {} optimization {}
    repeated_is_not_list    | instance_group { kind: KIND_CPU } instance_group { kind: KIND_CPU }
    scalar_as_list          | max_batch_size: [ 1 ]
    scalar_as_empty_list    | max_batch_size: []
    message_as_list         | optimization [ {} ]
    message_list            | instance_group [ { kind: KIND_CPU }, { kind: KIND_CPU } ]
    message_list_colon      | instance_group: [ { kind: KIND_CPU } ]
    message_list_empty      | instance_group []
    message_list_angles     | instance_group [ < kind: KIND_CPU >, { kind: KIND_CPU } ]
    message_list_trailing   | instance_group [ { kind: KIND_CPU }, ]
    message_list_semicolon  | instance_group [ { kind: KIND_CPU }; { kind: KIND_CPU } ]
    message_list_no_comma   | instance_group [ { kind: KIND_CPU } { kind: KIND_CPU } ]
    message_list_unclosed   | instance_group [ { kind: KIND_CPU }
    number_list_trailing    | version_policy { specific { versions: [ 1, ] } }
    number_list_leading     | version_policy { specific { versions: [ , 1 ] } }
    number_list_no_comma    | version_policy { specific { versions: [ 1 2 ] } }
    number_list_nested      | version_policy { specific { versions: [ [ 1 ] ] } }
    number_list_no_colon    | version_policy { specific { versions [ 1 ] } }
    number_list_mixed       | version_policy { specific { versions: 1 versions: [ 2, 3 ] versions: 4 } }
    message_no_braces       | optimization
    message_scalar          | optimization: 1
    message_string          | optimization: "a"
    scalar_message          | max_batch_size { a: 1 }
    scalar_no_colon         | max_batch_size 1
    string_no_colon         | runtime "a"
    scalar_no_value         | max_batch_size:
    colon_twice             | max_batch_size:: 1
    equals                  | max_batch_size = 1
    value_only              | 4
    quoted_name             | "max_batch_size": 4
    braces                  | {}
    brace_open              | optimization {
    brace_close             | }
    brace_extra             | optimization {} }
    brace_mixed             | optimization { >
    angles                  | optimization < eager_batching: true >
    angles_unclosed         | optimization < eager_batching: true
    parentheses             | optimization ( )
    message_colon           | optimization: {}
    message_colon_angles    | optimization: <>
    oneof_two               | version_policy { latest { num_versions: 1 } all {} }
    oneof_same              | version_policy { all {} all {} }
    map_as_map              | parameters: { "a": "b" }
    map_entry_twice_key     | parameters { key: "a" key: "b" }
    map_entry_unknown       | parameters { key: "a" val: "b" }
    map_list                | parameters [ { key: "a" value {} }, { key: "b" value {} } ]
    map_value_list          | metric_tags { key: "a" value: [ "b" ] }
    enum_field_list         | instance_group { kind: [ KIND_CPU ] }
"""

_SEPARATORS = """
    comma                   | max_batch_size: 1, runtime: ""
    semicolon               | max_batch_size: 1; runtime: ""
    comma_last              | max_batch_size: 1,
    semicolon_last          | max_batch_size: 1;
    comma_twice             | max_batch_size: 1,, runtime: ""
    comma_semicolon         | max_batch_size: 1,; runtime: ""
    comma_first             | , max_batch_size: 1
    comma_alone             | ,
    comma_after_message     | optimization {}, max_batch_size: 1
    semicolon_after_message | optimization {}; max_batch_size: 1;
    comma_in_message        | optimization { eager_batching: true, }
    comma_alone_in_message  | optimization { , }
    none                    | max_batch_size:1runtime:""
    none_after_string       | runtime:""max_batch_size:1
    none_after_brace        | optimization{}max_batch_size:1
    tabs_in_line            | max_batch_size	:	1
"""

_INTEGERS = """
    decimal         | 12
    zero            | 0
    zeros           | 00
    octal           | 014
    octal_bad       | 09
    octal_7         | 07
    octal_prefix    | 0o14
    binary          | 0b11
    hexadecimal     | 0x1F
    hexadecimal_up  | 0X1f
    hexadecimal_no  | 0x
    hexadecimal_bad | 0xG
    hexadecimal_neg | -0x1
    octal_neg       | -01
    plus            | +8
    minus           | -8
    minus_space     | - 8
    minus_zero      | -0
    minus_two       | --8
    float           | 8.0
    float_dot       | 8.
    dot_float       | .8
    exponent        | 8e0
    float_suffix    | 8f
    underscore      | 1_000
    comma           | 1,000
    letters         | 8x
    letters_space   | 8 x
    quoted          | "8"
    word            | eight
    true            | true
    int32_largest   | 2147483647
    int32_beyond    | 2147483648
    int32_smallest  | -2147483648
    int32_below     | -2147483649
    uint64_beyond   | 18446744073709551616
    very_long       | 99999999999999999999999999999999999999
    hex_int32       | 0x7fffffff
    hex_beyond      | 0x80000000
    octal_int32     | 017777777777
    octal_beyond    | 020000000000
    infinity        | inf
    empty           |
    brace           | { 8 }
    list            | [ 8 ]
    list_of_none    | []
"""

_UNSIGNED = """
    one             | 1
    minus_zero      | -0
    minus_one       | -1
    uint32_largest  | 4294967295
    uint32_beyond   | 4294967296
    hexadecimal     | 0xffffffff
    hex_beyond      | 0x100000000
    octal           | 01
    float           | 1.0
"""

_FLOATS = """
    decimal         | 0.5
    integer         | 1
    minus_zero      | -0.0
    no_digit_before | .5
    no_digit_after  | 1.
    dot             | .
    exponent        | 5e-1
    exponent_up     | 5E-1
    exponent_plus   | 1e+0
    exponent_none   | 1e
    exponent_sign   | 1e-
    suffix          | 0.5f
    suffix_up       | 0.5F
    suffix_integer  | 1f
    suffix_twice    | 0.5ff
    suffix_d        | 0.5d
    hexadecimal     | 0x1
    hex_float       | 0x1p0
    octal           | 01
    octal_float     | 01.5
    nan             | nan
    nan_upper       | NaN
    minus_nan       | -nan
    inf             | inf
    infinity        | infinity
    infinity_upper  | INFINITY
    minus_inf       | -inf
    quoted          | "0.5"
    plus            | +0.5
    minus_space     | - 0.5
    tiny            | 1e-400
    huge            | 1e400
    long            | 0.50000000000000000000000000000000000000000000000000000001
    two_dots        | 0.5.5
    letters         | 0.5abc
    word            | half
    true            | true
    integer_huge    | 18446744073709551616
    integer_long    | 99999999999999999999999999
"""

_BOOLS = """
    true            | true
    false           | false
    True            | True
    False           | False
    t               | t
    f               | f
    one             | 1
    zero            | 0
    two             | 2
    TRUE            | TRUE
    yes             | yes
    on              | on
    quoted          | "true"
    octal_one       | 01
    hex_one         | 0x1
    octal_zero      | 00
    minus_one       | -1
    minus_zero      | -0
    float           | 1.0
    list            | [ true ]
    empty           |
"""

_ENUMS = """
    name            | KIND_CPU
    number          | 2
    number_unknown  | 17
    number_negative | -1
    number_octal    | 02
    number_hex      | 0x2
    number_large    | 2147483647
    number_beyond   | 2147483648
    number_below    | -2147483649
    name_minus      | -KIND_CPU
    name_unknown    | KIND_TPU
    name_case       | kind_cpu
    name_qualified  | ModelInstanceGroup.KIND_CPU
    name_quoted     | "KIND_CPU"
    name_and_more   | KIND_CPU KIND_GPU
    value_of_other  | TYPE_FP32
    float           | 2.0
    empty           |
"""

_STRINGS = r"""
    plain           | "a"
    empty           | ""
    single          | 'a'
    single_empty    | ''
    mixed           | "a'
    joined          | "a" "b"
    joined_mixed    | "a" 'b'"c"
    joined_tight    | "a""b"
    quotes          | "say \"a\""
    single_inside   | "it's"
    newline         | "a\nb"
    tab             | "a\tb"
    backslash       | "a\\b"
    all_simple      | "\a\b\f\n\r\t\v\\\?\'\""
    unknown_escape  | "\q"
    unknown_escape2 | "\8"
    escape_space    | "\ "
    octal           | "\101"
    octal_1         | "\7"
    octal_large     | "\377"
    octal_too_large | "\400"
    octal_max       | "\777"
    hex             | "\x41"
    hex_upper       | "\X41"
    hex_1           | "\xf"
    hex_none        | "\x"
    hex_bad         | "\xg"
    hex_long        | "\x4142"
    hex_not_utf8    | "\xff"
    octal_not_utf8  | "\200"
    utf8_by_octal   | "\303\244"
    utf8_by_hex     | "\xc3\xa4"
    zero            | "\0"
    zero_3          | "a\000b"
    unicode         | "\u00e4"
    unicode_short   | "\u00e"
    unicode_none    | "\u"
    unicode_nul     | "\u0000"
    unicode_long    | "\U0001F600"
    unicode_long_5  | "\U0001F60"
    unicode_beyond  | "\U00110000"
    unicode_wrong   | "\U1001F600"
    surrogate_high  | "\ud83d"
    surrogate_low   | "\ude00"
    surrogate_pair  | "\ud83d\ude00"
    surrogate_wrong | "\ud83d\u0041"
    surrogate_U     | "\U0000d83d"
    not_ascii       | "größe"
    emoji           | "😀"
    unclosed        | "a
    unclosed_escape | "a\"
    open_only       | "
    word            | a
    number          | 1
    true            | true
    list            | [ "a" ]
    list_empty      | []
    prefix_b        | b"a"
    prefix_r        | r"a"
    triple          | \"\"\"a\"\"\"
    backtick        | `a`
    quotes_typographic | “a”
"""

_NAMES = """
    right           | "m"
    joined          | "" "m"
    escaped         | "\\155"
    wrong           | "n"
    zero_after      | "m\\0"
    space           | "m "
    single          | 'm'
    bare            | m
    number          | 1
"""

_COMMENTS = """
    hash            | # a comment
    hash_end        | max_batch_size: 1 # a comment
    hash_tight      | max_batch_size: 1# a comment
    hash_quote      | # it's "open
    hash_braces     | # } { [
    hash_twice      | ## #
    slashes         | // a comment
    slashes_end     | max_batch_size: 1 // a comment
    stars           | /* a comment */
    in_string       | runtime: "#"
    hash_in_list    | version_policy { specific { versions: [ 1 # one ] } }
    hash_not_ascii  | # größe 😀
    dashes          | -- a comment
    semicolon       | ; a comment
    percent         | % a comment
    xml             | <!-- a comment -->
"""

_EXTENSIONS = """
    extension       | [inference.ext]: 1
    extension_msg   | [inference.ext] { a: 1 }
    extension_empty | []: 1
    any             | [type.googleapis.com/inference.ModelConfig] { name: "a" }
    any_in_message  | optimization { [type.googleapis.com/inference.ModelConfig] {} }
    any_spaces      | [ type.googleapis.com / inference.ModelConfig ] {}
    any_no_slash    | [googleapis] {}
    any_unclosed    | [type.googleapis.com/a
    any_unknown     | [a.b/c.d.E] {}
"""

_BYTES: Mapping[str, bytes] = {
    "bom_in_middle": b"\xef\xbb\xbfmax_batch_size: 1",
    "crlf": b'max_batch_size: 1\r\nruntime: ""\r\n',
    "cr": b'max_batch_size: 1\rruntime: ""\r',
    "cr_after_comment": b"# a\rmax_batch_size: bad",
    "tab": b"\tmax_batch_size:\t1\t",
    "form_feed": b"\x0cmax_batch_size: 1",
    "vertical_tab": b"\x0bmax_batch_size: 1",
    "nul": b"max_batch_size: 1\0",
    "nul_between": b'max_batch_size: 1 \0 runtime: ""',
    "nul_in_comment": b"# a\0b\nmax_batch_size: 1",
    "nul_in_string": b'runtime: "a\0b"',
    "bell": b"\x07max_batch_size: 1",
    "escape": b"max_batch_size: 1 \x1b",
    "delete": b"max_batch_size: 1 \x7f",
    "control_in_comment": b"# \x01\x02\n",
    "no_break_space": b"max_batch_size:\xc2\xa01",
    "not_utf8_in_comment": b"# \xff\xfe\n",
    "not_utf8_in_string": b'parameters { key: "k" value { string_value: "\xff" } }',
    "not_utf8_in_key": b'metric_tags { key: "\xff" value: "v" }',
    "not_utf8_in_name": b'name: "m\xff"',
    "not_utf8_bare": b"\xff",
    "latin1_in_string": b'parameters { key: "k" value { string_value: "gr\xf6\xdfe" } }',
    "latin1_in_comment": b"# gr\xf6\xdfe\n",
    "utf8_overlong": b'parameters { key: "k" value { string_value: "\xc0\x80" } }',
    "utf8_surrogate": b'parameters { key: "k" value { string_value: "\xed\xa0\x80" } }',
    "utf8_beyond": b'parameters { key: "k" value { string_value: "\xf4\x90\x80\x80" } }',
    "utf8_cut": b'parameters { key: "k" value { string_value: "\xe2\x82" } }',
    "utf8_field_name": "größe: 1".encode(),
    "newline_in_string": b'runtime: "a\nb"',
    "newline_escaped_in_string": b'runtime: "a\\\nb"',
    "string_over_lines": b'parameters { key: "a"\n"b" value {} }',
    "comment_no_newline": b"# the end",
    "comment_between": b"max_batch_size # a\n: # b\n1",
    "comment_in_string_join": b'parameters { key: "a" # first\n"b" value {} }',
    "field_over_lines": b"max_batch_size\n:\n1",
    "minus_over_lines": b"instance_group { gpus: -\n1 }",
    "hash_only": b"#",
    "list_over_lines_comments": b"version_policy { specific { versions: [ 1 # one\n, 1 ] } }",
}

_WHOLE: Mapping[str, bytes] = {
    "empty": b"",
    "newline": b"\n",
    "spaces": b"   \n\t\n",
    "bom": b"\xef\xbb\xbf" + _IO.encode(),
    "bom_only": b"\xef\xbb\xbf",
    "utf16": _IO.encode("utf-16"),
    "nul": b"\0",
    "binary": bytes(range(256)),
    "json": b'{ "name": "m", "max_batch_size": 1 }',
    "yaml": b"name: m\nmax_batch_size: 1\n",
    "xml": b"<config><name>m</name></config>",
    "braces": b"{}",
    "in_braces": b"{ " + _IO.encode() + b" }",
    "in_message": b"ModelConfig { " + _IO.encode() + b" }",
    "in_angles": b"< " + _IO.encode() + b" >",
    "hash_header": b"#! /usr/bin/env triton\n" + _IO.encode(),
    "proto_header": b"# proto-file: model_config.proto\n# proto-message: ModelConfig\n" + _IO.encode(),
    "one_line": _IO.replace("\n", " ").encode(),
    "windows": _IO.replace("\n", "\r\n").encode(),
    "old_mac": _IO.replace("\n", "\r").encode(),
    "git_conflict": b"<<<<<<< HEAD\nmax_batch_size: 1\n=======\nmax_batch_size: 2\n>>>>>>> b\n" + _IO.encode(),
    "template": b"max_batch_size: ${MAX_BATCH}\n" + _IO.encode(),
    "jinja": b"max_batch_size: {{ batch }}\n" + _IO.encode(),
}
