"""The names people use for countries, capitals and currencies, where GeoNames' own name is not enough.

Each table has the form `CODE name|alias|…; CODE …`. The first name is the one used in questions, or taught. For a
country GeoNames' own name is also accepted; for a currency also the unit alone ("dollar") and the ISO code.
"""


def _parse(table: str) -> dict[str, list[str]]:
    """`CODE name|alias; CODE …` as a dictionary of lists."""
    entries = (entry.strip().partition(" ") for entry in table.replace("\n", " ").split(";"))
    return {code: [name.strip() for name in names.split("|")] for code, _, names in entries}


COUNTRIES = _parse("""AE United Arab Emirates|UAE|Emirates; AX Åland Islands|Åland; BA Bosnia and Herzegovina|Bosnia|
Bosnia-Herzegovina|Bosnia & Herzegovina; BL Saint Barthélemy; BN Brunei|Brunei Darussalam; BO Bolivia|
Plurinational State of Bolivia; BY Belarus|Byelorussia; CD Democratic Republic of the Congo|Democratic Republic of Congo|DR Congo|DRC|DR of the Congo|Congo-Kinshasa|
Congo (Kinshasa)|Congo, Democratic Republic of the; CF Central African Republic|CAR; CG Republic of the Congo|
Republic of Congo|Congo Republic|Congo-Brazzaville|Congo (Brazzaville)|Congo; CI Ivory Coast|Côte d'Ivoire;
CN China|People's Republic of China|PRC|PR China|mainland China; CV Cape Verde|Cabo Verde; CW Curaçao;
CZ Czech Republic|Czechia; DE Germany|Federal Republic of Germany; DO Dominican Republic; EG Egypt|
Arab Republic of Egypt; FM Federated States of Micronesia|Micronesia; FR France|French Republic; GB United Kingdom|UK|
Great Britain|Britain|United Kingdom of Great Britain and Northern Ireland; GM Gambia; GR Greece|Hellenic Republic;
HK Hong Kong; IE Ireland|Republic of Ireland|Éire; IN India|Republic of India; IR Iran|Islamic Republic of Iran;
KG Kyrgyzstan|Kyrgyz Republic|Kirghizia; KP North Korea|Democratic People's Republic of Korea|DPRK;
KR South Korea|Republic of Korea|Korea; LA Laos|Lao PDR|Lao People's Democratic Republic; LY Libya; MD Moldova|
Republic of Moldova; MK North Macedonia|Macedonia|Republic of North Macedonia; MM Myanmar|Burma; MO Macao|Macau;
MX Mexico|United Mexican States; NL Netherlands|Holland; RE Réunion;
RU Russia|Russian Federation; SA Saudi Arabia|Kingdom of Saudi Arabia|KSA; SJ Svalbard and Jan Mayen|Svalbard;
SK Slovakia|Slovak Republic; ST São Tomé and Príncipe; SY Syria|Syrian Arab Republic; SZ Eswatini|Swaziland;
TL East Timor|Timor-Leste; TR Turkey|Türkiye|Republic of Turkey|Turkiye; TT Trinidad and Tobago|Trinidad|
Trinidad & Tobago; TW Taiwan|Republic of China|ROC|Chinese Taipei; TZ Tanzania|United Republic of Tanzania;
US United States|United States of America|USA|US|America; VA Vatican City|Vatican|Holy See; VE Venezuela|
Bolivarian Republic of Venezuela; VG British Virgin Islands; VI U.S. Virgin Islands|United States Virgin Islands|
US Virgin Islands; VN Vietnam|Viet Nam|Socialist Republic of Vietnam; ZA South Africa|Republic of South Africa|RSA""")

CAPITALS = _parse("""AE Abu Dhabi|Abu Zaby; AG St. John's|Saint John's; AI The Valley; BO Sucre|La Paz;
BR Brasília; CH Bern|Berne; CM Yaoundé; CN Beijing|Peking; CO Bogotá|Bogota D.C.; CR San José; DZ Algiers|Alger;
EG Cairo|Al-Qahirah; GD St. George's|Saint George's; GG Saint Peter Port|St Peter Port; GQ Ciudad de la Paz|Malabo|Oyala|
Djibloho; GR Athens|Athina; GU Hagåtña|Hagatna|Agana; IE Dublin|Baile Átha Cliath; IN New Delhi|Delhi; IS Reykjavík;
IT Rome|Roma; JE Saint Helier|St Helier; KI South Tarawa|Tarawa|Bairiki; KN Basseterre; KY George Town|Georgetown;
KZ Astana|Nur-Sultan; LK Sri Jayawardenepura Kotte|Kotte|Sri Jayewardenepura Kotte|Colombo; MD Chișinău|Kishinev;
MM Naypyidaw|Nay Pyi Taw|Naypyitaw|Naypyitau; MN Ulaanbaatar|Ulan Bator; MS Plymouth|Brades; MV Malé; NC Nouméa;
NL Amsterdam; NP Kathmandu|Katmandu; OM Muscat|Masqat; PF Papeete|Papeʻete|Pape'ete; PL Warsaw|Warszawa; PT Lisbon|
Lisboa; PW Ngerulmud|Melekeok; PY Asunción; RO Bucharest|București; SJ Longyearbyen; SO Mogadishu|Muqdisho; SZ Mbabane|
Lobamba; TD N'Djamena|Ndjamena|N'Djaména; TG Lomé; TM Ashgabat|Ashkhabad; TO Nukuʻalofa|Nuku'alofa; TZ Dodoma;
UA Kyiv|Kiev; US Washington, D.C.|Washington|Washington DC|District of Columbia; UZ Tashkent|Toshkent; WF Mata-Utu|
Mata Utu|Matāʻutu; YE Sana'a|Sanaa|Sana; ZA Pretoria|Cape Town|Bloemfontein|Tshwane; AZ Baku; BE Brussels|Bruxelles|
City of Brussels; BY Minsk; FM Palikir; HU Budapest; IL Jerusalem; IR Tehran|Teheran; KP Pyongyang; MG Antananarivo|
Tananarive; CU Havana|La Habana; DK Copenhagen|København; CZ Prague|Praha; RS Belgrade|Beograd; RU Moscow|Moskva;
SY Damascus; VN Hanoi|Ha Noi; XK Pristina|Prishtina; ZW Harare; ET Addis Ababa|Addis Abeba; SA Riyadh|Ar Riyad;
LB Beirut|Beyrouth; LY Tripoli; GE Tbilisi|Tiflis; AM Yerevan|Erevan; AF Kabul; KG Bishkek; KR Seoul; TL Dili;
HT Port-au-Prince; FK Stanley|Port Stanley; FO Tórshavn; GL Nuuk|Godthåb; AX Mariehamn|Maarianhamina; MT Valletta|La Valletta; QA Doha|Ad Dawhah;
BH Manama|Al Manamah; KM Moroni; MR Nouakchott; VI Charlotte Amalie; TC Cockburn Town; NR Yaren|
Yaren District""")

CURRENCIES = _parse("""AED UAE dirham|United Arab Emirates dirham|Emirati dirham; AFN afghani|Afghan afghani;
ALL lek|Albanian lek; AMD dram|Armenian dram; ANG Netherlands Antillean guilder|florin; AOA kwanza|Angolan kwanza;
ARS Argentine peso|Argentinian peso|Argentinean peso; AUD Australian dollar|Aussie dollar; AWG Aruban florin|Aruban guilder|
guilder; AZN manat|Azerbaijani manat|Azerbaijan manat; BAM convertible mark|Bosnia and Herzegovina convertible mark|
Bosnian convertible mark|Bosnian mark|marka|konvertibilna marka; BBD Barbadian dollar|Barbados dollar; BDT taka|
Bangladeshi taka; BGN lev|Bulgarian lev; BHD Bahraini dinar|Bahrain dinar; BIF Burundian franc|Burundi franc;
BMD Bermudian dollar|Bermuda dollar; BND Brunei dollar|Bruneian dollar; BOB boliviano|Bolivian boliviano; BRL Brazilian real|
reais; BSD Bahamian dollar; BTN ngultrum|Bhutanese ngultrum; BWP pula|Botswana pula; BYN Belarusian ruble|
Belarusian rouble|rouble; BZD Belize dollar|Belizean dollar; CAD Canadian dollar; CDF Congolese franc; CHF Swiss franc;
CLP Chilean peso; CNY yuan|renminbi|Chinese yuan|Yuan Renminbi|RMB|Chinese yuan renminbi|Chinese renminbi;
COP Colombian peso; CRC colón|Costa Rican colón; CUP Cuban peso; CVE Cape Verdean escudo|Cape Verde escudo|
Cabo Verdean escudo; CZK Czech koruna|Czech crown|crown; DJF Djiboutian franc|Djibouti franc; DKK Danish krone|
Danish crown|kroner; DOP Dominican peso; DZD Algerian dinar; EGP Egyptian pound; ERN nakfa|Eritrean nakfa; ETB birr|
Ethiopian birr; EUR euro; FJD Fijian dollar|Fiji dollar; FKP Falkland Islands pound|Falklands pound; GBP pound sterling|
British pound|pound|British pound sterling|GB pound|pounds sterling|quid; GEL lari|Georgian lari; GHS cedi|Ghanaian cedi|
Ghana cedi; GIP Gibraltar pound; GMD dalasi|Gambian dalasi; GNF Guinean franc|Guinea franc; GTQ quetzal|Guatemalan quetzal;
GYD Guyanese dollar|Guyana dollar; HKD Hong Kong dollar; HNL lempira|Honduran lempira; HTG gourde|Haitian gourde; HUF forint|
Hungarian forint; IDR rupiah|Indonesian rupiah; ILS shekel|Israeli shekel|new shekel|Israeli new shekel|NIS|
new Israeli shekel; INR Indian rupee; IQD Iraqi dinar; IRR Iranian rial|toman; ISK Icelandic króna|Icelandic krone;
JMD Jamaican dollar|Jamaica dollar; JOD Jordanian dinar|Jordan dinar; JPY yen|Japanese yen; KES Kenyan shilling|
Kenya shilling; KGS som|Kyrgyz som|Kyrgyzstani som; KHR riel|Cambodian riel|riels; KMF Comorian franc|Comoro franc;
KPW North Korean won; KRW South Korean won|Korean won; KWD Kuwaiti dinar; KYD Cayman Islands dollar|Cayman dollar;
KZT tenge|Kazakhstani tenge|Kazakh tenge; LAK kip|Lao kip|Laotian kip; LBP Lebanese pound|lira|Lebanese lira; LKR Sri Lankan rupee|
Sri Lanka rupee; LRD Liberian dollar; LSL loti|Lesotho loti|maloti; LYD Libyan dinar; MAD Moroccan dirham; MDL Moldovan leu|
lei; MGA ariary|Malagasy ariary; MKD Macedonian denar; MMK kyat|Burmese kyat|Myanmar kyat; MNT tögrög|tugrik|
Mongolian tögrög|Mongolian tugrik|togrog; MOP pataca|Macanese pataca|Macau pataca; MRU ouguiya|Mauritanian ouguiya;
MUR Mauritian rupee|Mauritius rupee; MVR rufiyaa|Maldivian rufiyaa; MWK Malawian kwacha|Malawi kwacha; MXN Mexican peso;
MYR ringgit|Malaysian ringgit; MZN metical|Mozambican metical; NAD Namibian dollar|Namibia dollar; NGN naira|Nigerian naira;
NIO córdoba|Nicaraguan córdoba|córdoba oro; NOK Norwegian krone|Norwegian crown|kroner; NPR Nepalese rupee|Nepali rupee;
NZD New Zealand dollar|NZ dollar; OMR Omani rial; PAB balboa|Panamanian balboa; PEN sol|Peruvian sol|nuevo sol|
Peruvian nuevo sol; PGK kina|Papua New Guinean kina; PHP Philippine peso|Filipino peso|piso; PKR Pakistani rupee|
Pakistan rupee; PLN złoty|zloty|Polish złoty|Polish zloty; PYG guaraní|Paraguayan guaraní; QAR Qatari riyal|rial|Qatari rial;
RON Romanian leu|lei; RSD Serbian dinar; RUB Russian ruble|Russian rouble|rouble; RWF Rwandan franc|Rwanda franc;
SAR Saudi riyal|Saudi Arabian riyal|rial|Saudi rial; SBD Solomon Islands dollar; SCR Seychellois rupee|Seychelles rupee;
SDG Sudanese pound; SEK Swedish krona|Swedish crown|krone|kronor|Swedish krone; SGD Singapore dollar|Singaporean dollar;
SHP Saint Helena pound|St Helena pound; SLE leone|Sierra Leonean leone|SLL; SOS Somali shilling; SRD Surinamese dollar|
Suriname dollar; SSP South Sudanese pound; STN dobra|São Tomé and Príncipe dobra; SYP Syrian pound|lira|Syrian lira;
SZL lilangeni|Swazi lilangeni|emalangeni; THB baht|Thai baht; TJS somoni|Tajikistani somoni|Tajik somoni; TMT manat|
Turkmenistan manat|Turkmen manat|Turkmenistani manat; TND Tunisian dinar; TOP paʻanga|pa'anga|Tongan paʻanga|Tongan pa'anga;
TRY Turkish lira; TTD Trinidad and Tobago dollar|Trinidadian dollar; TWD New Taiwan dollar|Taiwan dollar|Taiwanese dollar|
NT dollar; TZS Tanzanian shilling|Tanzania shilling; UAH hryvnia|Ukrainian hryvnia|hryvnya; UGX Ugandan shilling|
Uganda shilling; USD US dollar|United States dollar|American dollar|U.S. dollar; UYU Uruguayan peso; UZS som|Uzbekistani som|
Uzbek som|soʻm|so'm|sum; VES bolívar|Venezuelan bolívar|bolívar soberano|bolívar digital; VND đồng|dong|Vietnamese đồng|
Vietnamese dong; VUV vatu|Vanuatu vatu; WST tala|Samoan tala|tālā; XAF Central African CFA franc|CFA franc|CFA|FCFA;
XCD East Caribbean dollar|Eastern Caribbean dollar; XCG Caribbean guilder|Netherlands Antillean guilder|ANG; XOF West African CFA franc|
CFA franc|CFA|FCFA; XPF CFP franc|Pacific franc; YER Yemeni rial|riyal|Yemeni riyal; ZAR South African rand;
ZMW Zambian kwacha|Zambia kwacha; ZWG Zimbabwe Gold|ZiG""")

ALSO_CURRENCY = _parse("""BG Bulgarian lev|lev|BGN; BT Indian rupee; FO Faroese króna|Faroese krona;
GG Guernsey pound; HR Croatian kuna|kuna; IM Manx pound; JE Jersey pound; PA US dollar|dollar|United States dollar|
American dollar|USD; SV bitcoin; TV Tuvaluan dollar; KI Kiribati dollar; CK Cook Islands dollar; ZW US dollar|USD|
United States dollar|Zimbabwean dollar""")
