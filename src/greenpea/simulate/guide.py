"""What volunteers of a simulated campaign are told: a short tutorial and a field guide, as Markdown."""

TUTORIAL = {
    "en": """# Welcome

Each image shows one galaxy in the middle. You answer a few questions about it. There are no wrong answers: if you
are not sure, say what you would rather believe.

---

# Look closer

Zoom with the wheel or with two fingers, drag to move. **i** inverts the image: faint arms show up better in black on
white.

---

# Answer quickly

The number beside an answer is its key. **Backspace** takes you back, and later answers are kept as long as they
still fit. If something looks *odd*, press **f**: the Green Peas were found that way.
""",
    "de": """# Willkommen

Jedes Bild zeigt in der Mitte eine Galaxie. Du beantwortest ein paar Fragen dazu. Falsche Antworten gibt es nicht:
bist du unsicher, sag, was du eher glaubst.

---

# Genauer hinsehen

Zoome mit dem Mausrad oder mit zwei Fingern, verschiebe durch Ziehen. **i** kehrt das Bild um: schwache Arme sieht
man schwarz auf weiß besser.

---

# Schnell antworten

Die Zahl neben einer Antwort ist ihre Taste. **Rücktaste** führt zurück; spätere Antworten bleiben, solange sie noch
passen. Sieht etwas *seltsam* aus, drücke **f**: so wurden die Green Peas gefunden.
""",
    "es": """# Bienvenida

Cada imagen muestra una galaxia en el centro. Respondes unas preguntas sobre ella. No hay respuestas malas: si
dudas, di lo que te parezca más probable.

---

# Mira de cerca

Amplía con la rueda o con dos dedos, arrastra para mover. **i** invierte la imagen: los brazos débiles se ven mejor
en negro sobre blanco.

---

# Responde deprisa

El número junto a una respuesta es su tecla. **Retroceso** vuelve atrás; las respuestas siguientes se conservan
mientras encajen. Si algo parece *raro*, pulsa **f**: así se encontraron los Green Peas.
""",
}

GUIDE = {
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
