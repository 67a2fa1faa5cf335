"""What a look at every probe found wrong: drawings left out, and captions corrected."""

REJECTED = frozenset(
    {
        "animals/birds/acquila_architetto_franc_04.png",
        "animals/fish/dolphin_01.png",
        "animals/mammals/bears/bear_peterm_01.png",
        "animals/mammals/crazy_monkey_shandy_brow_01.png",
        "buildings/homes/home15.png",
        "education/thumbtack_linda_kim_01.png",
        "food/meats_and_eggs/fuoco_da_campeggio_archi_01.png",
        "people/busy_mom_with_child_and_01.png",
        "people/clothing/hats/green_fedora_01.png",
        "people/fireman_enrique_meza_c_01.png",
        "people/grandpa_01.png",
        "people/handstand_andrew_fitzsim_01.png",
        "people/man_chris_kempson_01.png",
        "recreation/sports/stylized_yoga_person_ger_01.png",
        "recreation/sports/stylized_yoga_person_ger_06.png",
        "science/scale_01.png",
        "tools/smoke_nicu_buculei_03.png",
        "unsorted/psycho_icecube_phentex_01.png",
        "unsorted/set_gatti.png",
    }
)
"""Paths of clip art, or glyph names, that do not show what their caption says, or show nothing clear."""

RENAMED = {
    "animals/lindworm_snake_jonadab_t_01.png": "dinosaur",
    "animals/mammals/bears/sleeping_bear_under_sta_01.png": "sleeping bear at night",
    "animals/mammals/housecats/gatto_nero_architetto_fr_01.png": "black cat and a pumpkin",
    "animals/mammals/stambecco_valdostano_arc_01.png": "deer",
    "animals/seal_sek_.png": "walrus",
    "cloud-with-lightning-and-rain": "thunderstorm",
    "education/stamp_01.png": "rubber stamp",
    "food/beverages/coffe_tea_01.png": "cup of coffee",
    "food/fruit/slate-apple_benji_park_01.png": "slate and an apple",
    "geography/astronomy/00_moonphases_openclipa_01.png": "phases of the moon",
    "laptop": "desktop computer",
    "people/bussiness_woman_donna_i_01.png": "woman with a briefcase",
    "people/clothing/hats/hat_01.png": "party hat",
    "people/clothing/hats/hat_02.png": "party hat",
    "people/clothing/hats/purple_hat_nicu_buculei_01.png": "purple hat",
    "people/clothing/tie_-_clothing_nicu_bucu_01.png": "bow tie",
    "plants/olivier_one_bw_jean-vict_01.png": "olive branch",
    "plants/olivier_one_jean-victor__01.png": "olive branch",
    "recreation/holiday/valentines/heart_tiles_jon_phillips_01.png": "many hearts",
    "signs_and_symbols/weather/cloudy01.png": "sun behind a cloud",
    "signs_and_symbols/weather/cloudy02.png": "sun behind a cloud",
    "signs_and_symbols/weather/cloudy03.png": "moon behind a cloud",
    "signs_and_symbols/weather/snow.png": "snowflake",
    "tools/smoke_nicu_buculei_01.png": "smoking pipe",
    "tools/smoke_nicu_buculei_02.png": "cigarette",
    "unsorted/ape_miele.png": "honeycomb with bees",
    "unsorted/provette_architetto_fran_01.png": "laboratory flasks",
}
"""Path of clip art, or glyph name -> the caption that is true of it."""
