"""Which file of a published test set is in a model's language: de, deu, deu_Latn and deu-AT."""

from collections.abc import Collection

# ISO 639-1 and what test sets call it by ISO 639-3, where one language has several names all.
_ISO = """
af afr, am amh, ar arb ara, as asm, ay ayr, az azj aze, ba bak, be bel, bg bul, bm bam, bn ben,
bo bod, bs bos, ca cat, cs ces, cy cym, da dan, de deu, dv div, dz dzo, ee ewe, el ell, en eng,
eo epo, es spa, et est ekk, eu eus, fa pes fas, ff fuv, fi fin, fj fij, fo fao, fr fra, ga gle,
gd gla, gl glg, gn grn, gu guj, ha hau, he heb, hi hin, hr hrv, ht hat, hu hun, hy hye, id ind,
ig ibo, is isl, it ita, ja jpn, jv jav, ka kat, kg kon, ki kik, kk kaz, km khm, kn kan, ko kor,
ks kas, ku kmr, ky kir, lb ltz, lg lug, li lim, ln lin, lo lao, lt lit, lv lvs lav, mg plt mlg,
mi mri, mk mkd, ml mal, mn khk mon, mr mar, ms zsm msa, mt mlt, my mya, nb nob, nd nde, ne npi nep,
nl nld, nn nno, no nob, ny nya, oc oci, om gaz orm, or ory, pa pan, pl pol, ps pbt pus, pt por,
rn run, ro ron, ru rus, rw kin, sa san, sc srd, sd snd, sg sag, si sin, sk slk, sl slv, sm smo,
sn sna, so som, sq als sqi, sr srp, ss ssw, st sot, su sun, sv swe, sw swh swa, ta tam, te tel,
tg tgk, th tha, ti tir, tk tuk, tn tsn, to ton, tr tur, ts tso, tt tat, tw twi, ty tah, ug uig,
uk ukr, ur urd, uz uzn uzb, ve ven, vi vie, wo wol, xh xho, yi ydd, yo yor, zh zho, zu zul
"""
_BY_SHORT = {short: {short, *names} for short, *names in (e.split() for e in _ISO.split(","))}
# Countries by which people tell the two ways of writing Chinese.
_SCRIPTS = {"cn": "hans", "sg": "hans", "tw": "hant", "hk": "hant"}


def files_in_language(language: str, codes: Collection[str]) -> list[str]:
    """The codes that a language may be meant by: one if it is clear, several if it is not.

    The same script or country comes first, then a code without any.
    """
    primary, rest = _split(language)
    names = _BY_SHORT.get(primary, {primary})
    found = [code for code in codes if _split(code)[0] in names]
    same = [code for code in found if _split(code)[1] == rest]
    return same if len(same) == 1 else found


def _split(code: str) -> tuple[str, str]:
    primary, _, rest = code.lower().replace("-", "_").partition("_")
    return primary, _SCRIPTS.get(rest, rest)
