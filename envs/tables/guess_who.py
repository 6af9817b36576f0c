"""Makes guess-who.json from the characters that the PyPI package textarena 0.7.4 ships (MIT).

Usage: pip download --no-deps textarena==0.7.4
       python3 guess_who.py textarena-0.7.4-py3-none-any.whl > guess-who.json
"""

import hashlib
import json
import sys
import zipfile

WHEEL = "684784e78278e518066f67557ee93b47c238d16cbbd15d3abdaa3147562d3024"
MEMBER = "textarena/envs/GuessWho/characters.json"
CHARACTERS = "605303b61a39ad82f088ce29a937da7f3adc1b9d17bbf4b9baf42c3be13ce24f"

# Attribute -> ways to ask whether it has the value {v}.
TEMPLATES = {
    "hair_color": ["Does the person have {v} hair?", "Is the person's hair {v}?", "{v} hair?"],
    "hair_style": ["Is the person's hairstyle {v}?", "Does the person wear their hair {v}?", "A {v} hairstyle?"],
    "eye_color": ["Does the person have {v} eyes?", "Are the person's eyes {v}?", "{v} eyes?"],
    "facial_hair": ["Does the person have a {v}?", "Is there a {v} on the person's face?", "A {v}?"],
    "skin_tone": ["Does the person have {v} skin?", "Is the person's skin {v}?", "Is the skin tone {v}?"],
    "hat_type": ["Is the person wearing a {v}?", "Does the person have a {v} on?", "A {v} on the head?"],
    "hair_texture": ["Does the person have {v} hair texture?", "Is the person's hair texture {v}?", "Is the texture of the hair {v}?"],
    "eyewear_style": ["Does the person have {v} eyewear?", "Is the person's eyewear {v}?", "Is the eyewear style {v}?"],
    "nose_shape": ["Does the person have a {v} nose?", "Is the person's nose {v}?", "A {v} nose?"],
    "ear_size": ["Does the person have {v} ears?", "Are the person's ears {v}?", "{v} ears?"],
    "smile_type": ["Does the person have a {v} smile?", "Is the person's smile {v}?", "A {v} smile?"],
    "clothing_style": ["Is the person's clothing {v}?", "Does the person wear {v} clothes?", "A {v} clothing style?"],
    "age_range": ["Is the person {v}?", "Is the person's age range {v}?", "Would you say the person is {v}?"],
    "complexion": ["Does the person have a {v} complexion?", "Is the person's complexion {v}?", "A {v} complexion?"],
    "cheek_features": ["Does the person have {v} on the cheeks?", "Are there {v} on the person's cheeks?", "{v} on the cheeks?"],
}
# Values whose questions read better in words of their own.
SPECIAL = {
    ("gender", "male"): ["Is the person a man?", "Is the person male?", "Is it a guy?"],
    ("gender", "female"): ["Is the person a woman?", "Is the person female?", "Is it a lady?"],
    ("hair_style", "bald"): ["Is the person bald?", "Is the person's head bald?", "A bald head?"],
    ("hat_type", "baseball"): ["Is the person wearing a baseball cap?", "Does the person have a baseball cap on?", "A baseball cap?"],
    ("hat_type", "bowler"): ["Is the person wearing a bowler hat?", "Does the person have a bowler hat on?", "A bowler hat?"],
    ("complexion", "olive"): ["Does the person have an olive complexion?", "Is the person's complexion olive?", "An olive complexion?"],
}
ACCESSORY = ["Does the person wear {a}{v}?", "Is the person wearing {a}{v}?", "Does the person have {a}{v} as an accessory?"]


def questions(attribute, value):
    if (attribute, value) in SPECIAL:
        return SPECIAL[attribute, value]
    if attribute == "accessories":
        article = "" if value.endswith("s") else "a "
        return [t.format(a=article, v=value) for t in ACCESSORY]
    asked = [t.format(v=value.replace("-", " ")) for t in TEMPLATES[attribute]]
    return [q[0].upper() + q[1:] for q in asked]


def main(path):
    with open(path, "rb") as wheel:
        if hashlib.sha256(wheel.read()).hexdigest() != WHEEL:
            sys.exit(f"{path} is not the wheel of textarena 0.7.4")
    data = zipfile.ZipFile(path).read(MEMBER)
    if hashlib.sha256(data).hexdigest() != CHARACTERS:
        sys.exit(f"{MEMBER} has changed")
    people = json.loads(data)

    def values(person, attribute):
        value = person[attribute]
        return [v for v in (value if isinstance(value, list) else [value]) if v != "none"]

    attributes = {}
    for attribute in people[0]:
        if attribute != "name":
            for value in sorted({v for person in people for v in values(person, attribute)}):
                attributes[f"{attribute}={value}"] = questions(attribute, value)
    rows = [
        {
            "name": person["name"],
            "yes": [i for i in attributes if i.split("=")[1] in values(person, i.split("=")[0])],
        }
        for person in people
    ]
    notice = (
        "Characters from textarena 0.7.4 (PyPI), MIT licence, "
        f"{MEMBER}, sha256 {CHARACTERS}; questions written for Socratiq. See NOTICE.md."
    )

    def lines(entries):
        return ",\n".join("    " + json.dumps(entry) for entry in entries)

    print("{")
    print(f'  "name": "guess-who",\n  "item": "person",\n  "list_items": true,\n  "notice": {json.dumps(notice)},')
    print('  "attributes": [')
    print(lines({"id": i, "questions": q} for i, q in attributes.items()))
    print('  ],\n  "items": [')
    print(lines(rows))
    print("  ]\n}")


if __name__ == "__main__":
    main(sys.argv[1])
