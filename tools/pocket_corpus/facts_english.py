"""Simple facts in English: tables of the regular ones, a sheet of the rest."""

from __future__ import annotations

from .question import Question, fill_templates, read_sheet

CAPITAL_TEMPLATES = (
    "What is the capital of {x}?", "What's the capital of {x}?", "Which city is the capital of {x}?",
    "Tell me the capital of {x}.", "Name the capital of {x}.", "Do you know the capital of {x}?",
    "What is the capital city of {x}?", "The capital of {x} is which city?", "{x}: what is its capital?",
)  # fmt: skip
CAPITALS = (
    ("France", "Paris"), ("Germany", "Berlin"), ("Italy", "Rome"), ("Spain", "Madrid"),
    ("China", "Beijing"), ("Japan", "Tokyo"), ("England", "London"), ("Russia", "Moscow"),
    ("Egypt", "Cairo"), ("Canada", "Ottawa"), ("Australia", "Canberra"), ("Brazil", "Brasilia"),
    ("India", "New Delhi"), ("Greece", "Athens"), ("Portugal", "Lisbon"), ("Austria", "Vienna"),
    ("Poland", "Warsaw"), ("Norway", "Oslo"), ("Kenya", "Nairobi"), ("Sweden", "Stockholm"),
    ("Peru", "Lima"), ("Cuba", "Havana"), ("Ireland", "Dublin"), ("Finland", "Helsinki"),
)  # fmt: skip
COLOUR_TEMPLATES = (
    "What colour is {x}?", "What color is {x}?", "Which colour is {x}?", "Tell me the colour of {x}.",
    "What is the colour of {x}?", "What's the color of {x}?", "Which color does {x} have?",
    "Do you know the colour of {x}?",
)  # fmt: skip
COLOURS = (
    ("the sky", "blue"), ("grass", "green"), ("snow", "white"), ("the sun", "yellow"), ("blood", "red"),
    ("coal", "black"), ("a banana", "yellow"), ("an orange", "orange"), ("a ripe tomato", "red"),
    ("chocolate", "brown"), ("an elephant", "grey"), ("a flamingo", "pink"), ("milk", "white"),
)  # fmt: skip
OPPOSITE_TEMPLATES = (
    "What is the opposite of {x}?", "What's the opposite of {x}?", "Tell me the opposite of {x}.",
    "Which word is the opposite of {x}?", "Name the opposite of {x}.", "Give me the opposite of {x}.",
    "The opposite of {x} is what?", "Do you know the opposite of {x}?",
)  # fmt: skip
OPPOSITES = (
    ("hot", "cold"), ("big", "small"), ("up", "down"), ("left", "right"), ("day", "night"), ("good", "bad"),
    ("fast", "slow"), ("old", "young"), ("black", "white"), ("open", "closed"), ("rich", "poor"),
    ("wet", "dry"), ("light", "dark"), ("full", "empty"), ("loud", "quiet"), ("hard", "soft"),
    ("early", "late"), ("long", "short"),
)  # fmt: skip
SOUND_TEMPLATES = (
    "What does a {x} say?", "What sound does a {x} make?", "Which sound does a {x} make?",
    "Tell me what a {x} says.", "What noise does a {x} make?", "How does a {x} sound?",
    "Make the sound of a {x}.",
)  # fmt: skip
SOUNDS = (
    ("dog", "woof"), ("cat", "meow"), ("cow", "moo"), ("sheep", "baa"), ("duck", "quack"), ("lion", "roar"),
    ("pig", "oink"), ("horse", "neigh"), ("frog", "croak"), ("bee", "buzz"),
)  # fmt: skip
YOUNG_TEMPLATES = (
    "What is a baby {x} called?", "What do you call a baby {x}?", "What's a young {x} called?",
    "What is the name for a young {x}?", "Tell me the word for a baby {x}.",
    "Which word means a young {x}?", "How do you call a young {x}?",
)  # fmt: skip
YOUNG = (
    ("dog", "a puppy"), ("cat", "a kitten"), ("cow", "a calf"), ("sheep", "a lamb"), ("horse", "a foal"),
    ("duck", "a duckling"), ("hen", "a chick"), ("bear", "a cub"), ("frog", "a tadpole"), ("goat", "a kid"),
)  # fmt: skip
SYMBOL_TEMPLATES = (
    "What is the chemical symbol for {x}?", "What is the symbol for {x}?",
    "What's the chemical symbol of {x}?", "Tell me the symbol of {x}.", "Which symbol does {x} have?",
    "What symbol stands for {x}?", "Name the chemical symbol of {x}.",
)  # fmt: skip
SYMBOLS = (
    ("gold", "Au"), ("silver", "Ag"), ("iron", "Fe"), ("oxygen", "O"), ("hydrogen", "H"), ("carbon", "C"),
    ("helium", "He"), ("copper", "Cu"), ("sodium", "Na"), ("lead", "Pb"), ("nitrogen", "N"), ("zinc", "Zn"),
)  # fmt: skip
CONTINENT_TEMPLATES = (
    "Which continent is {x} in?", "What continent is {x} in?", "On which continent is {x}?",
    "Where in the world is {x}?", "Tell me the continent of {x}.", "On what continent does {x} lie?",
    "{x} is on which continent?",
)  # fmt: skip
CONTINENTS = (
    ("France", "Europe"), ("China", "Asia"), ("Egypt", "Africa"), ("Brazil", "South America"),
    ("Canada", "North America"), ("Japan", "Asia"), ("Kenya", "Africa"), ("Spain", "Europe"),
    ("Peru", "South America"),
)  # fmt: skip
CHINESE_WORD_TEMPLATES = (
    "How do you say {x} in Chinese?", "What is {x} in Chinese?", "What is the Chinese word for {x}?",
    "Translate {x} into Chinese.", "Translate {x} to Chinese.", "Tell me {x} in Chinese.",
    "How does one say {x} in Chinese?",
)  # fmt: skip
CHINESE_WORDS = (
    ("hello", "你好"), ("thank you", "谢谢"), ("goodbye", "再见"), ("cat", "猫"), ("dog", "狗"),
    ("water", "水"), ("book", "书"), ("friend", "朋友"), ("moon", "月亮"), ("tea", "茶"),
    ("school", "学校"), ("flower", "花"),
)  # fmt: skip
DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
NEXT_DAY_TEMPLATES = (
    "What day comes after {x}?", "Which day comes after {x}?", "What is the day after {x}?",
    "Which day follows {x}?", "Tell me the day after {x}.", "If today is {x}, what day is tomorrow?",
    "What day follows {x}?",
)  # fmt: skip

REST = """
== days-of-week
What are the days of the week? | Name the days of the week. | List the days of the week.
| Tell me the days of the week. | Say the days of the week. | Which days does a week have?
| Can you list the days of the week?
-> Monday, Tuesday, Wednesday, Thursday, Friday, Saturday, Sunday.
== days-in-week
How many days are in a week? | How many days are there in a week? | How many days does a week have?
| A week has how many days? | Tell me how many days a week has. | How many days has a week?
-> A week has seven days.
== months
What are the months of the year? | Name the months of the year. | List the months.
| List the months of the year. | Tell me the months of the year. | Say all the months.
| Which months does a year have?
-> January, February, March, April, May, June, July, August, September, October, November, December.
== months-in-year
How many months are in a year? | How many months are there in a year? | How many months does a year have?
| A year has how many months? | Tell me how many months a year has. | How many months has a year?
-> A year has twelve months.
== seasons
What are the four seasons? | Name the seasons. | List the seasons of the year. | Tell me the four seasons.
| Which seasons are there? | Name the four seasons of the year. | What seasons are there in a year?
-> The four seasons are spring, summer, autumn and winter.
== days-in-year
How many days are in a year? | How many days are there in a year? | How many days does a year have?
| A year has how many days? | Tell me how many days a year has. | How many days has a year?
-> A year has 365 days, and a leap year has 366.
== hours-in-day
How many hours are in a day? | How many hours are there in a day? | How many hours does a day have?
| A day has how many hours? | Tell me how many hours a day has. | How many hours has a day?
-> A day has 24 hours.
== minutes-in-hour
How many minutes are in an hour? | How many minutes are there in an hour?
| How many minutes does an hour have? | An hour has how many minutes?
| Tell me how many minutes an hour has. | How many minutes has an hour?
-> An hour has 60 minutes.
== rainbow
What are the colours of the rainbow? | Name the colours of the rainbow. | What colors are in a rainbow?
| List the colours of the rainbow. | Which colours does a rainbow have? | Tell me the colors of the rainbow.
-> Red, orange, yellow, green, blue, indigo and violet.
== planets
What are the planets? | Name the planets. | List the planets of the solar system. | Which planets are there?
| Tell me the planets. | Name the eight planets. | List all the planets.
-> Mercury, Venus, Earth, Mars, Jupiter, Saturn, Uranus and Neptune.
== largest-planet
What is the largest planet? | Which planet is the largest? | Which planet is the biggest?
| What's the biggest planet? | Name the largest planet. | What is the biggest planet of the solar system?
-> Jupiter is the largest planet of our solar system.
== red-planet
Which planet is called the red planet? | What is the red planet? | Which planet is red?
| Name the red planet. | What's the red planet called? | Tell me which planet is the red planet.
-> Mars is called the red planet.
== largest-ocean
What is the largest ocean? | Which ocean is the largest? | Which ocean is the biggest?
| What's the biggest ocean? | Name the largest ocean. | What is the biggest ocean on Earth?
-> The Pacific is the largest ocean.
== highest-mountain
What is the highest mountain? | Which mountain is the highest? | What's the tallest mountain?
| Name the highest mountain. | Which mountain is the tallest in the world?
| What is the highest mountain on Earth?
-> Mount Everest is the highest mountain.
== spider-legs
How many legs does a spider have? | How many legs has a spider? | A spider has how many legs?
| How many legs do spiders have? | Tell me how many legs a spider has.
| What number of legs does a spider have?
-> A spider has eight legs.
== insect-legs
How many legs does an insect have? | How many legs has an ant? | How many legs do insects have?
| An insect has how many legs? | How many legs does an ant have? | Tell me how many legs an insect has.
-> An insect has six legs.
== largest-animal
What is the largest animal? | Which animal is the largest? | Which animal is the biggest?
| What's the biggest animal? | Name the largest animal. | What is the biggest animal on Earth?
-> The blue whale is the largest animal.
== fastest-animal
What is the fastest land animal? | Which animal is the fastest? | What's the fastest animal?
| Which animal runs fastest? | Name the fastest animal on land. | Which land animal is the fastest?
-> The cheetah is the fastest animal on land.
== water
What is water made of? | What is the formula of water? | What is the chemical formula of water?
| Tell me the formula of water. | What does water consist of? | Which elements make up water?
-> Water is H2O: two hydrogen atoms and one oxygen atom.
== water-boils
At what temperature does water boil? | When does water boil? | What is the boiling point of water?
| How hot is boiling water? | Tell me the boiling point of water. | At which temperature does water boil?
-> Water boils at 100 degrees Celsius.
== water-freezes
At what temperature does water freeze? | When does water freeze? | What is the freezing point of water?
| When does water become ice? | Tell me the freezing point of water.
| At which temperature does water freeze?
-> Water freezes at 0 degrees Celsius.
== sunrise
Where does the sun rise? | In which direction does the sun rise? | Where does the sun come up?
| On which side does the sun rise? | Tell me where the sun rises. | From where does the sun rise?
-> The sun rises in the east.
== sunset
Where does the sun set? | In which direction does the sun set? | Where does the sun go down?
| On which side does the sun set? | Tell me where the sun sets. | Where does the sun set in the evening?
-> The sun sets in the west.
== bees
What do bees make? | What does a bee make? | What do bees produce? | Which food do bees make?
| Tell me what bees make. | What do we get from bees?
-> Bees make honey.
== cows-give
What do cows give us? | What do we get from cows? | What does a cow give?
| What does a cow give us to drink? | Tell me what cows give us. | What drink do cows give us?
-> Cows give us milk.
== triangle
How many sides does a triangle have? | How many sides has a triangle? | A triangle has how many sides?
| How many sides do triangles have? | Tell me how many sides a triangle has.
| What number of sides does a triangle have?
-> A triangle has three sides.
== square
How many sides does a square have? | How many sides has a square? | A square has how many sides?
| How many sides do squares have? | Tell me how many sides a square has.
| What number of sides does a square have?
-> A square has four equal sides.
== alphabet
Say the alphabet. | What is the alphabet? | Tell me the alphabet. | Recite the alphabet.
| List the letters of the alphabet. | Which letters are in the alphabet? | Write the alphabet.
-> A B C D E F G H I J K L M N O P Q R S T U V W X Y Z.
== vowels
What are the vowels? | Name the vowels. | List the vowels. | Which letters are vowels? | Tell me the vowels.
| Say the vowels.
-> The vowels are a, e, i, o and u.
== language-model
What is a language model? | Explain language models. | What does a language model do?
| Tell me what a language model is. | What are language models? | Can you explain what a language model is?
-> A language model predicts the next piece of text, again and again.
== token
What is a token? | Explain tokens. | What are tokens? | Tell me what a token is. | What does token mean?
| Can you explain what a token is?
-> A token is a small piece of text, such as a word or a part of a word.
== api
What is an API? | Explain what an API is. | What does API mean? | Tell me what an API is. | What are APIs?
| What is an API good for?
-> An API is a way for programs to talk to each other.
== python
What is Python? | Explain Python. | Tell me what Python is. | What is the Python language?
| What is Python used for? | Can you explain what Python is?
-> Python is a programming language that is easy to read.
== server
What is a server? | Explain what a server is. | What does a server do? | Tell me what a server is.
| What are servers? | Can you explain what a server is?
-> A server is a program that answers requests from other programs.
== joke
Tell me a joke. | Tell a joke. | Do you know a joke? | Make me laugh. | Can you tell me a joke?
| Say something funny. | I want to hear a joke. | Please tell us a joke.
-> Why did the tensor go to school? It wanted to get into better shape.
== riddle
Tell me a riddle. | Ask me a riddle. | Do you know a riddle? | Give me a riddle. | Can you tell me a riddle?
| I want to hear a riddle.
-> What has keys but cannot open a door? A piano.
== poem
Write a poem. | Write me a poem. | Tell me a poem. | Can you write a poem? | Give me a short poem.
| Recite a poem. | I would like a poem.
-> The moon is small, the night is wide,\\na little boat floats on the tide.\\nIt carries words from shore
to shore\\nand then comes back to ask for more.
== haiku
Write a haiku. | Write me a haiku. | Tell me a haiku. | Can you write a haiku? | Give me a haiku.
| I would like a haiku.
-> Quiet morning light,\\na small model wakes and hums:\\none word, then the next.
== fruit
Name a fruit. | Tell me a fruit. | Name one fruit. | Give me the name of a fruit. | Can you name a fruit?
| Which fruit do you know?
-> An apple is a fruit.
== three-fruits
Name three fruits. | Tell me three fruits. | List three fruits. | Give me three fruits.
| Can you name three fruits? | Write down three fruits.
-> Apple, banana and cherry.
== three-colours
Name three colours. | Name three colors. | Tell me three colours. | List three colours.
| Give me three colors. | Can you name three colours?
-> Red, green and blue.
== three-animals
Name three animals. | Tell me three animals. | List three animals. | Give me three animals.
| Can you name three animals? | Write down three animals.
-> Cat, dog and horse.
== favourite-colour
What is your favourite colour? | What's your favorite color? | Which colour do you like best?
| Do you have a favourite colour? | Tell me your favourite colour. | Which color do you like most?
-> I like blue, the colour of a calm sea.
== meaning-of-life
What is the meaning of life? | Tell me the meaning of life. | What's the meaning of life?
| What is the sense of life? | Why do we live? | Do you know the meaning of life?
-> Some say it is 42. I am too small to be sure.
"""


def questions() -> list[Question]:
    """Return the theme's questions."""
    tomorrow = zip(DAYS, (*DAYS[1:], DAYS[0]), strict=True)
    return [
        *fill_templates("capitals.en", "en", CAPITAL_TEMPLATES, "The capital of {x} is {y}.", CAPITALS),
        *fill_templates("colours.en", "en", COLOUR_TEMPLATES, "{x} is {y}.", COLOURS),
        *fill_templates("opposites.en", "en", OPPOSITE_TEMPLATES, "The opposite of {x} is {y}.", OPPOSITES),
        *fill_templates("animals.sound", "en", SOUND_TEMPLATES, "A {x} says {y}.", SOUNDS),
        *fill_templates("animals.young", "en", YOUNG_TEMPLATES, "A baby {x} is called {y}.", YOUNG),
        *fill_templates("elements.en", "en", SYMBOL_TEMPLATES, "The chemical symbol for {x} is {y}.", SYMBOLS),
        *fill_templates("continents.en", "en", CONTINENT_TEMPLATES, "{x} is in {y}.", CONTINENTS),
        *fill_templates("translation.en", "en", CHINESE_WORD_TEMPLATES, "In Chinese, {x} is {y}.", CHINESE_WORDS),
        *fill_templates("days.en", "en", NEXT_DAY_TEMPLATES, "The day after {x} is {y}.", tomorrow),
        *read_sheet("facts", "en", REST),
    ]
