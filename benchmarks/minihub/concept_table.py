"""The concepts that MiniHub adds to the demo hub's, in the same notation: ``name = glyph glyph ...``.

Chosen by hand like ``benchmarks/demo_hub/concept_table.py``: drawn in at least six styles, the held-out
one among them, and told apart from every other concept on a 64 pixel drawing.
"""

TABLE = """
bird
pufferfish = blowfish
bouquet
chipmunk
paw prints
spider web
squid
turkey
bacon
baguette = baguette-bread
bento box
champagne bottle = bottle-with-popping-cork
burrito
chestnut
cucumber
cutlery = fork-and-knife fork-and-knife-with-plate
glass of milk
peanuts
potato
chicken drumstick = poultry-leg
noodle soup = steaming-bowl
taco
whiskey = tumbler-glass
beach parasol = beach-with-umbrella umbrella-on-ground
reception bell = bellhop-bell
carousel horse
circus tent
greek temple = classical-building
cloud
rain = cloud-with-rain
road barrier = construction
water drop = droplet
hospital
kick scooter
mosque
barrel = oil-drum
police car = police-car oncoming-police-car
police siren = police-car-light
roller coaster
shinto shrine
taxi = taxi oncoming-taxi
bullet train = bullet-train high-speed-train
cable car = aerial-tramway mountain-cableway
ocean wave = water-wave
bridge = bridge-at-night
world map
bar chart
chain = chains
cigarette
clipboard
coffin
crossed swords
door
folder = file-folder open-file-folder
movie camera
money bag
nut and bolt
cardboard box = package
pen
pickaxe = pick
pushpin = pushpin round-pushpin
paper lantern = red-paper-lantern
satellite dish = satellite-antenna
scroll
shopping bags
shower
speaker = speaker-high-volume speaker-medium-volume speaker-low-volume
set square = triangular-ruler
video camera
trash can = wastebasket
stone head statue = moai
alien
space invader = alien-monster
skull
ghost
robot
clown = clown-face
pile of poo
heart = red-heart blue-heart green-heart purple-heart yellow-heart
broken heart
lips = kiss-mark mouth
speech bubble = speech-balloon left-speech-bubble
baby
ear
eye
thumbs up
fist = raised-fist oncoming-fist
santa claus
handshake
flexed arm = flexed-biceps
badminton
ping pong
ice hockey
golf = flag-in-hole
skis
rugby ball = rugby-football
ribbon
party popper
biohazard sign = biohazard
check mark = check-mark check-mark-button check-box-with-check
no smoking sign = no-smoking
peace symbol
radioactive sign = radioactive
recycling symbol
wheelchair symbol
yin yang
warning sign = warning
star of david = star-of-david
"""
