"""What a document is, as the options say it: texts, chats, domains, filters. readers/documents.py applies these values.

options.py      all of them, as they are typed     fields.py       the record that parts and readers get
domain_map.py   `--domain-map`                     domain_names.py which names a domain can have
filters.py      `--where`, lists of ids            functions.py    `module:function` of the user
chat.py         `--messages` → a text, spans       chat_generation.py  the tag `{% generation %}`
extractors.py   `--extract`: HTML → text           separators.py   `--document-separator`
words.py        words that a text may spell
"""
