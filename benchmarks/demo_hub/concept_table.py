"""The demo hub's concepts, chosen by hand: one line per concept, ``name = glyph glyph ...``.

A glyph is a drawing's name as OpenMoji spells it (close to Unicode CLDR's). Several glyphs on one
line are drawings of the same thing, so "cat" covers both the whole animal and its face. A line
without glyphs has the name itself as glyph (spaces become hyphens). Faces of people, flags, clock
faces and abstract symbols are left out, and so is whatever a person could not tell from its
neighbour on a 64 pixel drawing.
"""

TABLE = """
ant
bat
bear
bee = honeybee
butterfly
cactus
camel = camel two-hump-camel
cat = cat cat-face black-cat
cherry blossom
chick = baby-chick front-facing-baby-chick hatching-chick
chicken = chicken rooster
cow = cow cow-face
crab
crocodile
deer
dog = dog dog-face poodle guide-dog service-dog
dolphin
dragon = dragon dragon-face
duck
eagle
elephant
evergreen tree
fish
four-leaf clover
fox
frog
goat
gorilla
hamster
horse = horse horse-face
koala
ladybug = lady-beetle
leopard
lion
lizard
maple leaf
monkey = monkey monkey-face
mouse = mouse mouse-face
mushroom
octopus
owl
palm tree
panda
penguin
pig = pig pig-face
rabbit = rabbit rabbit-face
rhinoceros
rose
scorpion
seashell = spiral-shell
shark
sheep = ewe ram
shrimp
snail
snake
spider
sunflower
tiger = tiger tiger-face
tree = deciduous-tree
tulip
turtle
unicorn
whale = whale spouting-whale
wolf
apple = red-apple green-apple
avocado
baby bottle
banana
beer = beer-mug clinking-beer-mugs
birthday cake
bread
candy
carrot
cheese = cheese-wedge
cherries
chili pepper = hot-pepper
chocolate bar
cocktail = cocktail-glass
coffee = hot-beverage
cookie
corn = ear-of-corn
croissant
doughnut
egg
eggplant
french fries
fried egg = cooking
grapes
hamburger
honey pot
hot dog
ice cream = ice-cream soft-ice-cream
kitchen knife
kiwi = kiwi-fruit
lemon
lollipop
orange = tangerine
pancakes
peach
pear
pineapple
pizza
popcorn
rice ball
slice of cake = shortcake
spaghetti
spoon
strawberry
sushi
teacup = teacup-without-handle
tomato
watermelon
wine glass
american football
balloon
baseball
basketball
billiard ball = pool-8-ball
bowling
boxing glove
christmas tree
crystal ball
die = game-die
fireworks
fishing rod = fishing-pole
game controller = video-game
gift = wrapped-gift
ice skate
jack-o-lantern
joystick
medal = sports-medal 1st-place-medal 2nd-place-medal 3rd-place-medal
paint palette = artist-palette
picture frame = framed-picture
slot machine
soccer ball
tennis
theatre masks = performing-arts
ticket = ticket admission-tickets
trophy
volleyball
backpack
balance scale
banknote = dollar-banknote euro-banknote pound-banknote yen-banknote
bathtub
battery
bed
bell
bikini
bomb
book = closed-book blue-book green-book orange-book open-book books
boot = womans-boot
bow and arrow
briefcase
calendar = calendar tear-off-calendar spiral-calendar
camera = camera camera-with-flash
candle
clapperboard = clapper-board
compact disc = optical-disk dvd
couch = couch-and-lamp
credit card
crown
desktop computer
dress
drum
electric plug
envelope
flashlight
floppy disk
gear
gem = gem-stone
glasses
graduation cap
guitar
hammer
handbag
headphones = headphone
high heel = high-heeled-shoe
hourglass = hourglass-done hourglass-not-done
jeans
key = key old-key
keyboard
laptop
light bulb
lipstick
mailbox = closed-mailbox-with-raised-flag open-mailbox-with-raised-flag closed-mailbox-with-lowered-flag open-mailbox-with-lowered-flag
magnifying glass = magnifying-glass-tilted-left magnifying-glass-tilted-right
megaphone
microphone = microphone studio-microphone
microscope
mobile phone
musical note = musical-note musical-notes
necktie
newspaper = newspaper rolled-up-newspaper
padlock = locked unlocked locked-with-key
paintbrush
paperclip
pencil
piano = musical-keyboard
pill
printer
radio
ring
sandal = womans-sandal
saxophone
scissors
shield
shoe = mans-shoe
shopping cart
sneaker = running-shoe
sunglasses
syringe
t-shirt
telephone
telescope
television
toilet
top hat
trumpet
violin
wrench
airplane = airplane small-airplane airplane-departure airplane-arrival
alarm clock
ambulance
anchor
bicycle
bus = bus oncoming-bus
canoe
car = automobile oncoming-automobile
castle
church
crescent moon
factory
ferris wheel
fire
fire engine
fountain
full moon = full-moon full-moon-face
gas pump = fuel-pump
globe = globe-showing-americas globe-showing-asia-australia globe-showing-europe-africa
helicopter
house = house house-with-garden
lightning = high-voltage
locomotive
motorcycle
mountain = mountain snow-capped-mountain
racing car
rainbow
rocket
sailboat
ship = ship passenger-ship
snowflake
snowman = snowman snowman-without-snow
star = star glowing-star
statue of liberty
stop sign
stopwatch
sun = sun sun-with-face
tent = tent camping
thermometer
tornado
tractor
traffic light = horizontal-traffic-light vertical-traffic-light
truck = articulated-lorry delivery-truck
umbrella = umbrella umbrella-with-rain-drops closed-umbrella
volcano
watch
"""  # noqa: E501
