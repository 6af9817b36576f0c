"""Makes chat.json: dialogues rendered and tokenized by transformers, in the formats of several families.

The templates are written here after the formats that the families document; the tokenizer is a small
byte-level BPE trained below.
Usage: pip install transformers==5.24.0 jinja2 && python3 chat.py > chat.json
"""
import json

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

CHATML = """{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"""

CHATML_DEFAULT_SYSTEM = """{% for message in messages %}
{% if loop.first and messages[0]['role'] != 'system' %}
{{ '<|im_start|>system\\nYou are helpful.<|im_end|>\\n' }}
{%- endif %}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] | trim + '<|im_end|>' + '\\n' }}
{%- endfor %}
{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"""

LLAMA3 = """{{- bos_token }}
{%- if not date_string is defined %}{% set date_string = "26 Jul 2024" %}{% endif %}
{%- if messages[0].role == 'system' %}
    {%- set system = messages[0].content | trim %}
    {%- set messages = messages[1:] %}
{%- else %}{%- set system = '' %}{%- endif %}
{{- '<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: ' + date_string + '\\n\\n' + system }}
{%- if tools %}{{- '\\nTools:\\n' }}{% for tool in tools %}{{- tool | tojson(indent=4) + '\\n' }}{% endfor %}{% endif %}
{{- '<|eot_id|>' }}
{%- for message in messages %}
    {%- if message.role == 'tool' %}
        {{- '<|start_header_id|>ipython<|end_header_id|>\\n\\n' + message.content | tojson + '<|eot_id|>' }}
    {%- elif message.tool_calls %}
        {%- if message.tool_calls | length != 1 %}{{ raise_exception('only one tool call at once') }}{% endif %}
        {%- set call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n{"name": "' + call.name + '", "parameters": ' }}
        {{- call.arguments | tojson + '}<|eot_id|>' }}
    {%- else %}
        {{- '<|start_header_id|>' + message.role + '<|end_header_id|>\\n\\n' + message.content | trim + '<|eot_id|>' }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}{% endif %}"""

MISTRAL = """{%- set ns = namespace(index=0) -%}
{{- bos_token -}}
{%- for message in messages -%}
    {%- if (message.role == 'user') != (ns.index % 2 == 0) -%}
        {{- raise_exception('roles must alternate user/assistant') -}}
    {%- endif -%}
    {%- set ns.index = ns.index + 1 -%}
    {%- if message.role == 'user' -%}{{- '[INST] ' + message.content + ' [/INST]' -}}
    {%- else -%}{{- ' ' + message.content + eos_token -}}{%- endif -%}
{%- endfor -%}"""

QWEN = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}{{- messages[0].content + '\\n\\n' }}{%- endif %}
    {{- '# Tools\\n<tools>' }}
    {%- for tool in tools %}{{- '\\n' }}{{- tool | tojson }}{%- endfor %}
    {{- '\\n</tools><|im_end|>\\n' }}
{%- elif messages[0].role == 'system' %}
    {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
{%- endif %}
{%- set ns = namespace(last=messages | length - 1, found=false) %}
{%- for message in messages[::-1] %}
    {%- if not ns.found and message.role == 'user' %}
        {%- set ns.found = true %}{%- set ns.last = messages | length - 1 - loop.index0 %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.role == 'user' or (message.role == 'system' and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' }}
    {%- elif message.role == 'assistant' %}
        {%- set content = message.content %}
        {%- set thought = message.reasoning_content if message.reasoning_content is defined else '' %}
        {%- if '</think>' in content %}
            {%- set thought = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
            {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
        {%- endif %}
        {{- '<|im_start|>assistant\\n' }}
        {%- if loop.index0 > ns.last and thought %}
            {{- '<think>\\n' + thought.strip('\\n') + '\\n</think>\\n\\n' }}
        {%- endif %}
        {{- content }}
        {%- if message.tool_calls %}
            {%- for call in message.tool_calls %}
                {%- if not loop.first or content %}{{- '\\n' }}{%- endif %}
                {{- '<tool_call>\\n{"name": "' + call.function.name + '", "arguments": ' }}
                {{- call.function.arguments | tojson + '}\\n</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == 'tool' %}
        {%- if loop.first or messages[loop.index0 - 1].role != 'tool' %}{{- '<|im_start|>user' }}{%- endif %}
        {{- '\\n<tool_response>\\n' + message.content + '\\n</tool_response>' }}
        {%- if loop.last or messages[loop.index0 + 1].role != 'tool' %}{{- '<|im_end|>\\n' }}{%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""

ZEPHYR = """{% for message in messages %}
{% if message['role'] == 'user' %}
{{ '<|user|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'system' %}
{{ '<|system|>\\n' + message['content'] + eos_token }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>\\n'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}"""

GENERATION = """{%- for message in messages -%}
{{- '<|im_start|>' + message.role + '\\n' -}}
{%- if message.role == 'assistant' -%}
{%- generation -%}{{- message.content + '<|im_end|>' -}}{%- endgeneration -%}
{%- else -%}{{- message.content + '<|im_end|>' -}}{%- endif -%}{{- '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"""

SPECIAL = ["<s>", "</s>", "<|im_start|>", "<|im_end|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>",
           "<|user|>", "<|assistant|>", "<|system|>", "[INST]", "[/INST]"]
MARKUP = ["<tool_call>", "</tool_call>", "<think>", "</think>"]


def user(text):
    return {"role": "user", "content": text}


def agent(text, **more):
    return {"role": "assistant", "content": text, **more}


def call(name, **arguments):
    return {"type": "function", "function": {"name": name, "arguments": arguments}}


TOOLS = [{"type": "function", "function": {
    "name": "weather", "description": "What the weather's like in a city — \u00fcberall.",
    "parameters": {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
                   "required": ["city"]}}}]
PLAIN = [user("Is it big?"), agent("No, it's small."), user("Can it fly?\nSay yes or no."), agent("Yes! 🐦"),
         user("Danke schön.")]
SYSTEM = [{"role": "system", "content": "Answer briefly."}, *PLAIN[:4]]
SPACES = [user("  two spaces \n"), agent("\n\n  ok  "), user(""), agent("done")]
THINK = [user("2+2?"), agent("<think>\nIt is four.\n</think>\n\n4"), user("And 3+3?"),
         agent("6", reasoning_content="Six, I think."), user("Thanks")]
TOOL = [user("Weather in Bern?"), agent("Let me look.", tool_calls=[call("weather", city="Bern", days=2)]),
        {"role": "tool", "name": "weather", "content": '{"sky": "blue"}'},
        agent("Blue sky."), user("And in Rom?"), agent("", tool_calls=[call("weather", city="Rom")])]
TWO = [user("Both?"), agent("", tool_calls=[call("weather", city="Bern"), call("weather", city="Rom", days=1)]),
       {"role": "tool", "content": "sun"}, {"role": "tool", "content": "rain"}, agent("Sun and rain.")]

CASES = [
    ("chatml", CHATML, "<|im_end|>", [(PLAIN, None), (SYSTEM, None), (SPACES, None)]),
    ("chatml_default_system", CHATML_DEFAULT_SYSTEM, "<|im_end|>", [(PLAIN, None), (SYSTEM, None), (SPACES, None)]),
    ("llama3", LLAMA3, "<|eot_id|>", [(PLAIN, None), (SYSTEM, None), (SYSTEM, TOOLS), (TOOL, TOOLS)]),
    ("mistral", MISTRAL, "</s>", [(PLAIN, None)]),
    ("qwen", QWEN, "<|im_end|>", [(PLAIN, None), (SYSTEM, TOOLS), (TOOL, TOOLS), (TWO, TOOLS), (THINK, None)]),
    ("zephyr", ZEPHYR, "</s>", [(PLAIN, None), (SYSTEM, None)]),
    ("generation", GENERATION, "<|im_end|>", [(PLAIN, None), (SYSTEM, None), (SPACES, None)]),
]

tokenizer = Tokenizer(models.BPE())
tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
tokenizer.decoder = decoders.ByteLevel()
text = json.dumps([PLAIN, SYSTEM, THINK, TOOL, TWO, TOOLS], ensure_ascii=False)
tokenizer.train_from_iterator([text] * 3, trainers.BpeTrainer(
    vocab_size=380, special_tokens=SPECIAL, show_progress=False,
    initial_alphabet=pre_tokenizers.ByteLevel.alphabet()))
tokenizer.add_tokens([AddedToken(token, special=False, normalized=False) for token in MARKUP])

cases = []
for name, template, end, dialogues in CASES:
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token=end, chat_template=template)
    for messages, tools in dialogues:
        def render(messages, **more):
            return fast.apply_chat_template(messages, tools=tools, tokenize=False, **more)
        case = {"template": name, "messages": messages, "text": render(messages),
                "prompt": render(messages, add_generation_prompt=True)}
        if tools:
            case["tools"] = tools
        if name == "generation":
            out = fast.apply_chat_template(messages, tokenize=True, return_dict=True, return_assistant_tokens_mask=True)
            case["mask"] = out["assistant_masks"]
        case["ids"] = fast.encode(case["text"], add_special_tokens=False)
        cases.append(case)
templates = {name: {"source": template, "eos_token": end} for name, template, end, _ in CASES}
print(json.dumps({"templates": templates, "cases": cases, "tokenizer": json.loads(tokenizer.to_str())},
                 ensure_ascii=False, separators=(",", ":")))
