"""What volunteers of a simulated campaign are told: a short tutorial and a field guide, as Markdown."""

TUTORIAL = {
    "en": """# Welcome

Each image shows one galaxy in the middle. You answer a few questions about it. There are no wrong answers: if you
are not sure, say what you would rather believe.

---

# Look closer

Zoom with the wheel or with two fingers, drag to move. Inverted, in black on white, faint arms show up better.

⌨ **i** inverts the image, **+** and **-** zoom, **r** turns it.

---

# Answer quickly

You can always go back; later answers are kept as long as they still fit. If something looks *odd*, say so with the
star: the Green Peas were found that way.

⌨ The number beside an answer is its key. **Backspace** goes back, **f** is for what is unusual.
""",
    "de": """# Willkommen

Jedes Bild zeigt in der Mitte eine Galaxie. Du beantwortest ein paar Fragen dazu. Falsche Antworten gibt es nicht:
bist du unsicher, sag, was du eher glaubst.

---

# Genauer hinsehen

Zoome mit dem Mausrad oder mit zwei Fingern, verschiebe durch Ziehen. Umgekehrt, schwarz auf weiß, sieht man
schwache Arme besser.

⌨ **i** kehrt das Bild um, **+** und **-** zoomen, **r** dreht es.

---

# Schnell antworten

Du kannst immer zurück; spätere Antworten bleiben, solange sie noch passen. Sieht etwas *seltsam* aus, sag es mit
dem Stern: so wurden die Green Peas gefunden.

⌨ Die Zahl neben einer Antwort ist ihre Taste. Die **Rücktaste** führt zurück, **f** ist für Ungewöhnliches.
""",
    "es": """# Bienvenida

Cada imagen muestra una galaxia en el centro. Respondes unas preguntas sobre ella. No hay respuestas malas: si
dudas, di lo que te parezca más probable.

---

# Mira de cerca

Amplía con la rueda o con dos dedos, arrastra para mover. Invertidos, en negro sobre blanco, los brazos débiles se
ven mejor.

⌨ **i** invierte la imagen, **+** y **-** amplían, **r** la gira.

---

# Responde deprisa

Siempre puedes volver atrás; las respuestas siguientes se conservan mientras encajen. Si algo parece *raro*, dilo con
la estrella: así se encontraron los Green Peas.

⌨ El número junto a una respuesta es su tecla. **Retroceso** vuelve atrás, **f** es para lo inusual.
""",
}

GUIDE = {
    "de": """# Glatte Galaxien

Alte Sterne auf ungeordneten Bahnen: ein weiches Leuchten, rund oder gestreckt, ohne Struktur. Die meisten sind
elliptische Galaxien.

# Scheiben und Spiralen

Eine flache Scheibe aus Sternen, Gas und Staub. Von oben zeigt sie Arme, von der Kante eine schmale Linie.

# Balken

Ein gerader Streifen aus Sternen durch die Mitte, bei etwa einem Drittel aller Scheiben. Oft beginnen dort die Arme.

# Verschmelzungen

Zwei Galaxien auf dem Weg, eine zu werden: Schweife, Brücken, Schalen und ein verbogener Umriss.

# Bildfehler

Sterne mit Zacken, Spuren von Satelliten und kaputte Bilder. Das sind keine Galaxien: sag es, und weiter.
""",
    "en": """# Smooth galaxies

Old stars on random orbits: a soft glow, round or drawn out, without structure. Most are ellipticals.

# Disks and spirals

A flat disk of stars, gas and dust. Seen from above it shows arms, from the edge a thin line.

# Bars

A straight band of stars through the centre of about a third of all disks. The arms often begin at its ends.

# Mergers

Two galaxies on their way to becoming one: tails, bridges, shells, and a bent outline.

# Artifacts

Stars with spikes, trails of satellites, and broken images. They are no galaxies: say so, and go on.
""",
}
